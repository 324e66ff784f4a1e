"""Random slice descriptors that fit together, with parts that slices share where all of them do."""

from __future__ import annotations

from hypothesis import strategies as st

from phalanx.slices.model import (
    ManagedFunction,
    NetworkSlice,
    NetworkSliceSubnet,
    SlicesSpec,
    SNssai,
)

HOSTS = ("host1", "host2", "host3")
KINDS = ("AMF", "SMF", "UPF", "gNB")
DOMAINS = ("RAN", "CN", "TN")


@st.composite
def slices_specs(draw: st.DrawFn, slices: int = 4) -> SlicesSpec:
    """Return a descriptor of up to ``slices`` slices with one to three subnets each.

    The first slices are shared: their later subnets and functions may be those of others.
    """
    count = draw(st.integers(1, slices))
    shared = draw(st.integers(0, count))
    subnets: dict[str, NetworkSliceSubnet] = {}
    functions: dict[str, ManagedFunction] = {}
    held: list[NetworkSlice] = []
    common: list[str] = []
    for number in range(count):
        own = []
        for part in range(draw(st.integers(1, 3))):
            if number < shared and common and draw(st.booleans()):
                own.append(draw(st.sampled_from(sorted(set(common) - set(own)) or common)))
                continue
            name = f"subnet{number}-{part}"
            used = []
            for index in range(draw(st.integers(1, 3))):
                others = sorted({f for s in common for f in subnets[s].functions} - {*used})
                if number < shared and others and draw(st.booleans()):
                    used.append(draw(st.sampled_from(others)))
                    continue
                function = f"function{number}-{part}-{index}"
                functions[function] = ManagedFunction(
                    function, draw(st.sampled_from(KINDS)), draw(st.sampled_from(HOSTS))
                )
                used.append(function)
            domain = draw(st.sampled_from(DOMAINS))
            subnets[name] = NetworkSliceSubnet(name, domain, tuple(used))
            own.append(name)
        names = tuple(dict.fromkeys(own))
        level = "shared" if number < shared else "non-shared"
        held.append(NetworkSlice(f"slice{number}", SNssai(number), names, level))
        if number < shared:
            common += names
    return SlicesSpec(tuple(functions.values()), tuple(subnets.values()), tuple(held))
