"""Descriptors: what they say, what is passed over, and every way to refuse one in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct, inspect
from placements import FOLDER, load
from tests.mutations import mutated
from tests.nightly import examples

from phalanx.domain.errors import ScenarioError
from phalanx.domain.resources import Resources
from phalanx.orchestration.descriptors.node import DescriptorNode, passed_over
from phalanx.orchestration.descriptors.service import (
    Document,
    Request,
    Service,
    Sites,
    parse_service,
)
from phalanx.orchestration.mlfo.need import PlacementError, adjacent, need_of
from phalanx.orchestration.mlfo.pipeline import PipelineDescriptor, compute
from phalanx.orchestration.mlfo.search import Effort
from phalanx.runtime.catalogue import installed_capabilities
from phalanx.runtime.services import read_asked

FILES = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.yaml")}
DESCRIPTORS = [name for name in sorted(FILES) if "vnfd" in name or "nsd" in name]


def parsed(files: dict[str, str], request: str = "request.yaml") -> Service:
    return parse_service(
        {name: files[name] for name in DESCRIPTORS},
        ("sites.yaml", files["sites.yaml"]),
        (request, files[request]),
        set(installed_capabilities()),
    )


def changed(file: str, old: str, new: str) -> dict[str, str]:
    assert old in FILES[file], old
    return {**FILES, file: FILES[file].replace(old, new, 1)}


def refusal(files: dict[str, str], request: str = "request.yaml") -> str:
    with pytest.raises(ScenarioError) as caught:
        parsed(files, request)
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 500
    return line


def test_the_example_is_good_in_both_flavours() -> None:
    for request, count in (("request.yaml", 3), ("request-wide.yaml", 4)):
        service = load(request)
        assert service == parsed(FILES, request)
        assert len(service.flavour.vnf_profile) == count


def test_resources_are_those_of_the_level() -> None:
    vnfd = parsed(FILES).vnfds["cache-vnfd"]
    assert vnfd.resources() == Resources(4, 16, 200)
    two = FILES["cache_vnfd.yaml"].replace("number-of-instances: 1}", "number-of-instances: 2}")
    files = {**FILES, "cache_vnfd.yaml": two}
    assert parsed(files).vnfds["cache-vnfd"].resources("default", "single") == Resources(8, 32, 400)
    assert parsed(files).taken()["valencia"] == Resources(8, 32, 400)


def test_a_level_of_the_service_counts_instances() -> None:
    level = (
        "      df:\n        - id: default\n          ns-instantiation-level:\n"
        "            - {id: twice, vnf-to-level-mapping: "
        "[{vnf-profile-id: cache, number-of-instances: 2}]}\n"
    )
    files = changed("nsd.yaml", "      df:\n        - id: default\n", level)
    files["nsd.yaml"] = files["nsd.yaml"].replace(
        "- id: cache\n", "- id: cache\n              max-number-of-instances: 2\n"
    )
    assert parsed(files).taken()["valencia"] == Resources(8, 32, 400)


def test_a_forwarding_graph_orders_its_link() -> None:
    wide = parsed(FILES, "request-wide.yaml")
    assert adjacent(wide.nsd, wide.flavour) == (
        ("access", "cache"),
        ("access", "cache-2"),
        ("cache", "origin"),
        ("cache-2", "origin"),
    )
    assert need_of(parsed(FILES)).neighbours == (("access", "cache"), ("cache", "origin"))


def test_without_a_graph_all_on_a_link_are_neighbours() -> None:
    begin = FILES["nsd.yaml"].index("      vnffgd:")
    end = FILES["nsd.yaml"].index("      df:\n")
    files = {**FILES, "nsd.yaml": FILES["nsd.yaml"][:begin] + FILES["nsd.yaml"][end:]}
    service = parsed(files)
    found = adjacent(service.nsd, service.flavour)
    assert found == (("access", "cache"), ("access", "origin"), ("cache", "origin"))


def test_what_nobody_guards_is_passed_through() -> None:
    text = FILES["nsd.yaml"]
    guard = text[text.index("              - vnf-profile-id: cache\n") :]
    guard = guard[: guard.index("              - vnf-profile-id: origin")]
    service = parsed({**FILES, "nsd.yaml": text.replace(guard, "", 1)})
    assert need_of(service).neighbours == (("access", "origin"),)


def test_links_for_management_make_no_neighbours() -> None:
    files = changed("nsd.yaml", "mgmt-network: true, ", "")
    service = parsed(files)
    assert ("access", "origin") in adjacent(service.nsd, service.flavour)


def test_leaves_of_the_standard_are_passed_over_and_noted() -> None:
    files = changed(
        "nsd.yaml", "- id: cache\n", "- id: cache\n              service-availability-level: 2\n"
    )
    files["access_vnfd.yaml"] = files["access_vnfd.yaml"].replace(
        "vnfd:\n",
        "vnfd:\n  vnfm-info: [any]\n  lifecycle-management-script: [{event: [x], script: y}]\n",
    )
    assert parsed(files) == parsed(FILES)


def test_what_is_passed_over_is_listed_for_nodes_that_there_are_and_is_not_read() -> None:
    kinds = {kind.__name__: kind for kind in DescriptorNode.__subclasses__()}
    for name, leaves in passed_over().items():
        assert not {*kinds[name].__struct_encode_fields__} & {*leaves}, name


def test_descriptors_may_stand_in_one_file_as_sol006_has_it() -> None:
    def indented(name: str, leave: int) -> str:
        lines = FILES[name].splitlines()[leave:]
        return "\n".join("    " + line for line in lines)

    whole = "nfv:\n  vnfd:\n"
    for name in ("access", "cache", "origin"):
        body = indented(f"{name}_vnfd.yaml", 2).replace("      id:", "    - id:", 1)
        whole += body + "\n"
    whole += "  nsd:\n" + "\n".join(FILES["nsd.yaml"].splitlines()[3:]) + "\n"
    service = parse_service(
        {"all.yaml": whole},
        ("sites.yaml", FILES["sites.yaml"]),
        ("request.yaml", FILES["request.yaml"]),
    )
    assert service == parsed(FILES)


REFUSED = {
    "cache_vnfd.yaml": [
        ("id: cache-vnfd", "id: access-vnfd", "vnfd.id (line 3): 'access-vnfd' is"),
        ("int-cpd:", "int-cdp:", "vnfd.ext-cpd[0].int-cdp (line 11): unknown field;"),
        ("size: 16", "size: 0", "virtual-memory.size (line 26): 0 is not allowed"),
        ('version: "1.0"', "version: 1.0", "in quotes if it is meant as text"),
        ("cpd: video-int", "cpd: vid-int", "there is no int-cpd 'vid-int'"),
        ("vdu-id: cache-vm", "vdu-id: vm", "there is no vdu 'vm'"),
        ("mgmt-cp: mgmt-ext", "mgmt-cp: x", "vnfd.mgmt-cp (line 8): there is no"),
        ("desc: cache-compute", "desc: c", "no virtual-compute-desc 'c'"),
        ("[cache-disk]", "[disk]", "virtual-storage-desc[0] (line 19)"),
        ("sw-image-desc: cache-image", "sw-image-desc: i", "no sw-image-desc 'i'"),
        ("max-number-of-instances: 2", "max-number-of-instances: 0", "1 is above"),
        ("instances: 1}", "instances: 3}", "3 is not from 1 to 2"),
        ("level: single", "level: twin", "no instantiation-level 'twin'"),
        ("    - id: video-ext\n", "    - id: mgmt-ext\n", "already that of"),
        ("vnfd:", "vnfd: &x", "anchors"),
        ("vnfd:", "vndf:", "did you mean 'vnfd'?"),
    ],
    "nsd.yaml": [
        ("origin-vnfd]", "orign-vnfd]", "vnfd-id[2] (line 8): there is no VNFD 'orign-vnfd'"),
        ("vnfd-id: cache-vnfd", "vnfd-id: c", "vnf-profile[1].vnfd-id (line 49)"),
        ("desc: users", "desc: user", "sapd[0].virtual-link-desc"),
        ("flavour-id: default", "flavour-id: d", "there is no df of access-vnfd 'd'"),
        ("level: single", "level: twin", "there is no instantiation-level 'twin'"),
        ("profile-id: mgmt", "profile-id: m", "there is no virtual link 'm'"),
        ("cpd-id: mgmt-ext", "cpd-id: m-ext", "there is no ext-cpd 'm-ext'"),
        ("element-id: access", "element-id: cache", "this vnf-profile is 'access'"),
        ("desc-id: video", "desc-id: vid", "there is no virtual-link-desc 'vid'"),
        (
            "min-bitrate-requirements: {root: 100}",
            "min-bitrate-requirements: {root: 1e4}",
            "is above max-bitrate",
        ),
        ("[at-access]", "[at-acces]", "there is no nfp-position-element 'at-acces'"),
        ("[at-origin]", "[at-access]", "comes back to 'access': a forwarding path has no"),
        ("secondary-vnf-profile: cache}", "secondary-vnf-profile: origin}", "a cycle"),
        ("syn-proxy]", "syn-proxi]", "no function 'syn-proxi'; did you mean 'syn-proxy'?"),
        ("- vnf-profile-id: cache\n", "- vnf-profile-id: origin\n", "guards"),
        ("latency-ms: 2", "latency_ms: 2", "unknown field; did you mean 'latency-ms'?"),
        ("latency-ms: 2", "latency-ms: 2 ms", "without a unit"),
        ("least-trust: 0.7", "least-trust: 7", "7 is not allowed; expected a number from 0"),
        ("phalanx:", "phlanx:", "did you mean 'phalanx'?"),
        ("vnfd-id: [", "nested-nsd-id: [x]\n      vnfd-id: [", "unknown field"),
    ],
    "sites.yaml": [
        ("name: madrid", "name: valencia", "sites[2].name (line 25): 'valencia' is already"),
        ("pop: pop2", "pop: pop1", "sites[1].pop"),
        ("trust: 0.9", "trust: 1.9", "from 0 to 1"),
        ("sha256:3", "sha256:", "a digest such as sha256:"),
        ("[barcelona, valencia]", "[barcelona, valenca]", "did you mean 'valencia'?"),
        ("[barcelona, valencia]", "[madrid, valencia]", "already that of links[0]"),
        ("[barcelona, valencia]", "[madrid, madrid]", "links 'madrid' with itself"),
        ("cores: 32", "cores: 3", "vnfs.access (line 6): site 'barcelona' has no room"),
    ],
    "request.yaml": [
        ("nsd: edge-video", "nsd: video", "there is no NSD 'video'"),
        ("flavour: default", "flavour: small", "there is no df of edge-video 'small'"),
        ("cache: valencia", "cash: valencia", "there is no vnf-profile 'cash'"),
        ("cache: valencia", "cache: v", "vnfs.cache (line 7): there is no site 'v'"),
        ("  cache: valencia\n", "", "vnfs.cache (line 5): missing"),
        ("vnfs:", "weights: {agnt: 3}\nvnfs:", "did you mean 'agent'?"),
    ],
}
"""By file: what is replaced by what, and what the refusal says."""


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [(file, *case) for file, cases in REFUSED.items() for case in cases],
)
def test_the_field_and_the_reason_are_named(file: str, old: str, new: str, says: str) -> None:
    line = refusal(changed(file, old, new))
    assert line.startswith(f"{file}: ") or "request.yaml: vnfs" in line
    assert says in line, line


def test_cycles_of_dependencies_are_found() -> None:
    more = (
        "dependencies:\n"
        "            - {id: a, primary-vnf-profile: cache, secondary-vnf-profile: access}\n"
        "            - {id: b, primary-vnf-profile: access, secondary-vnf-profile: origin}"
    )
    line = refusal(changed("nsd.yaml", "dependencies:", more))
    assert "dependencies[2]" in line
    assert "'origin' would have to come before itself" in line


def test_a_flavour_without_agents_cannot_be_asked_for() -> None:
    text = FILES["nsd.yaml"]
    begin, end = text.index("          phalanx:"), text.index("        - id: wide")
    files = {**FILES, "nsd.yaml": text[:begin] + text[end:]}
    assert "flavour (line 4): 'default' of edge-video has no phalanx" in refusal(files)
    parsed(files, "request-wide.yaml")


def test_a_file_is_one_kind_of_descriptor() -> None:
    both = FILES["cache_vnfd.yaml"] + "nsd: {nsd: []}\n"
    assert "one of nfv, vnfd and nsd" in refusal({**FILES, "cache_vnfd.yaml": both})


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("sites.yaml", "No such file"),
        ("request.yaml", "No such file"),
        ("origin_vnfd.yaml", "there is no VNFD 'origin-vnfd'; known are access-vnfd"),
    ],
)
def test_folders_that_lack_something(tmp_path: Path, missing: str, says: str) -> None:
    for name, text in FILES.items():
        if name != missing:
            (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError, match=re.escape(says)):
        read_asked(tmp_path, None, None).service()


def fields(kind: type[Struct]) -> set[str]:
    """Return the names of all fields of ``kind`` and of what it holds."""
    found: set[str] = set()
    open_: list[inspect.Type] = [inspect.type_info(kind)]
    while open_:
        match open_.pop():
            case inspect.StructType() as struct:
                found |= {field.encode_name for field in struct.fields}
                open_ += [field.type for field in struct.fields]
            case inspect.VarTupleType() as many:
                open_.append(many.item_type)
            case inspect.UnionType() as union:
                open_ += union.types
    return found


PAGES = ("services.md", "scenario.md")
"""The second has the parts that scenarios have, too."""


@pytest.mark.parametrize("kind", [Document, Sites, Request, PipelineDescriptor])
def test_the_reference_names_every_field(kind: type[Struct]) -> None:
    pages = (FOLDER.parents[2] / "docs" / "reference" / name for name in PAGES)
    page = "\n".join(each.read_text(encoding="utf-8") for each in pages)
    quoted = re.findall(r"`[^`]+`", re.sub(r"```.*?```", "", page, flags=re.DOTALL))
    words = set(re.findall(r"[a-z][a-z0-9_-]*", " ".join(quoted)))
    assert fields(kind) <= words


# -- whatever a file holds, it is taken or refused in one line --------------------------------


TREES: dict[str, Any] = {name: yaml.safe_load(text) for name, text in FILES.items()}
TEXTS = {name: json.dumps(tree) for name, tree in TREES.items()}
FEW = settings(max_examples=examples(28), suppress_health_check=list(HealthCheck))


def read(texts: dict[str, str], request: str) -> None:
    """Read a service and place its agents, or be told in one line why not."""
    try:
        pipeline = compute(need_of(parsed(texts, request)), Effort(seconds=None, nodes=20))
        assert isinstance(pipeline, PipelineDescriptor)
    except (ScenarioError, PlacementError) as error:
        line = str(error)
        assert line.isprintable()
        assert 0 < len(line) < 700


@FEW
@given(st.data(), st.sampled_from(sorted(TREES)), st.sampled_from(["", "-wide"]))
def test_mutated_files(data: st.DataObject, name: str, which: str) -> None:
    read({**TEXTS, name: json.dumps(data.draw(mutated(TREES[name])))}, f"request{which}.yaml")


@FEW
@given(
    st.sampled_from(sorted(TEXTS)), st.integers(0, 4000), st.integers(0, 30), st.text(max_size=8)
)
def test_texts_with_a_piece_replaced(name: str, start: int, length: int, piece: str) -> None:
    text = yaml.safe_dump(TREES[name])
    read({**TEXTS, name: text[:start] + piece + text[start + length :]}, "request.yaml")


@FEW
@given(st.sampled_from(sorted(TEXTS)), st.text(max_size=60))
def test_any_text(name: str, text: str) -> None:
    read({**TEXTS, name: text}, "request.yaml")
