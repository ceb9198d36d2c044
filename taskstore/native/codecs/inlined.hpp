// A call in a loop keeps it from being vectorised, and keeps its state in memory. So pieces of loops are
// INLINED, whatever the compiler thinks of their size.
#pragma once

#define INLINED [[gnu::always_inline]] inline
