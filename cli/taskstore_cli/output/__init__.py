"""What commands print: tables, bars, JSON."""
