"""Decide which server serves which task: loads within a bound, and few moves when servers change.

Each task has an order of the servers, by a hash of both; it goes to the first with room. Source:
Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", arXiv 1608.01350.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blake3 import blake3

ROOM = 0.25  # above the mean load that a server may have


def place(loads: Mapping[str, float], servers: Sequence[str]) -> dict[str, str]:
    """Return task -> server; loads are of any unit, and tasks without any count as equal."""
    assert servers, "no server"
    even = max(1e-9, sum(loads.values()) / max(1, len(loads)))
    weights = {task: load + even / 8 for task, load in loads.items()}
    bound = (1 + ROOM) * sum(weights.values()) / len(servers)
    taken, found = dict.fromkeys(servers, 0.0), dict[str, str]()
    for task in sorted(weights, key=lambda t: (-weights[t], t)):
        order = sorted(servers, key=lambda server: blake3(f"{task}\n{server}".encode()).digest())
        room = [server for server in order if taken[server] + weights[task] <= bound]
        server = room[0] if room else min(order, key=lambda s: taken[s])
        found[task], taken[server] = server, taken[server] + weights[task]
    return found


def moved(
    now: Mapping[str, str], loads: Mapping[str, float], servers: Sequence[str]
) -> dict[str, str]:
    """Return the placement after a look at the loads; tasks stay where their server has room.

    Tasks of a server that is gone, new ones, and the fewest of an overloaded server are placed.
    """
    if not servers:
        return dict(now)
    even = sum(loads.values()) / max(1, len(loads))
    weights = {task: load + max(even, 1e-9) / 8 for task, load in loads.items()}
    bound = (1 + ROOM) * sum(weights.values()) / len(servers)
    found = {task: s for task, s in now.items() if task in loads and s in servers}
    taken = dict.fromkeys(servers, 0.0)
    for task, server in found.items():
        taken[server] += weights[task]
    homeless = sorted(set(loads) - set(found), key=lambda t: (-weights[t], t))
    for server in servers:
        own = sorted((t for t, s in found.items() if s == server), key=lambda t: (weights[t], t))
        while taken[server] > bound and len(own) > 1:
            task = own.pop(0)
            least = min(taken.values())
            if least + weights[task] >= taken[server]:
                break  # elsewhere it would be as bad
            taken[server] -= weights[task]
            homeless.append(task)
            del found[task]
    for task in homeless:
        server = min(servers, key=lambda s: (taken[s], s))
        found[task], taken[server] = server, taken[server] + weights[task]
    return found
