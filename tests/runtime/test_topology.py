"""Scenarios on the graphs of the Topology Zoo, and on junk."""

from __future__ import annotations

import os
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.nightly import examples

from phalanx.domain.errors import ScenarioError
from phalanx.runtime.loading import load_scenario, offences, parse_scenario
from phalanx.runtime.scenario import Scenario
from phalanx.runtime.topology import from_graphml, great_circle_km, roles, spread

REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("PHALANX_DATA", REPOSITORY / ".." / "shared" / "data"))
ZOO = sorted((DATA / "topologies").glob("*.graphml"))
DDOS = load_scenario(REPOSITORY / "scenarios" / "ddos-resilience.yaml")

HEAD = """<?xml version="1.0" encoding="utf-8"?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns">
<key attr.name="label" attr.type="string" for="node" id="l"/>
<key attr.name="Longitude" attr.type="double" for="node" id="x"/>
<key attr.name="Latitude" attr.type="double" for="node" id="y"/>
<key attr.name="LinkSpeedRaw" attr.type="double" for="edge" id="s"/>
<graph edgedefault="undirected">
"""
TAIL = "</graph></graphml>\n"


def node(name: str, label: str = "", x: float | None = None, y: float | None = None) -> str:
    place = "" if x is None else f'<data key="x">{x}</data><data key="y">{y}</data>'
    return f'<node id="{name}"><data key="l">{label}</data>{place}</node>'


def edge(a: str, b: str, speed: float | None = None) -> str:
    data = "" if speed is None else f'<data key="s">{speed}</data>'
    return f'<edge source="{a}" target="{b}">{data}</edge>'


def moved(tmp_path: Path, *parts: str, like: Scenario = DDOS) -> Scenario:
    path = tmp_path / "graph.graphml"
    path.write_text(HEAD + "\n".join(parts) + TAIL, encoding="utf-8")
    return from_graphml(path, like)


@pytest.mark.skipif(not ZOO, reason=f"no topologies in {DATA} (PHALANX_DATA)")
def test_every_graph_of_the_zoo_carries_the_scenario() -> None:
    for file in ZOO:
        scenario = from_graphml(file, DDOS)
        network = scenario.network
        assert not list(offences(scenario)), file
        assert len(network.pops) >= 11, file
        assert all(0.05 <= link.latency_ms < 100 for link in network.links), file
        assert network.default_link_loss == 0.0005
        assert len({network.repository, scenario.hosts[0].at, *scenario.traffic[0].at}) == 6
        assert scenario.to_network() == from_graphml(file, DDOS).to_network()
        assert any("roles" in note for note in scenario.notes)


@pytest.mark.skipif(len(ZOO) < 16, reason=f"not all 16 topologies in {DATA} (PHALANX_DATA)")
def test_known_sizes_and_speeds() -> None:
    by_name = {file.stem: from_graphml(file, DDOS).network for file in ZOO}
    assert len(by_name["UsCarrier"].pops) == 158
    assert len(by_name["Surfnet"].links) == 68
    assert {link.bandwidth_mb_s for link in by_name["Renater2010"].links} == {19.375}


def test_latency_is_the_great_circle_over_the_speed_of_light_in_fibre(tmp_path: Path) -> None:
    scenario = moved(
        tmp_path, node("0", "Paris", 2.35, 48.86), node("1", "Lyon", 4.84, 45.76), edge("0", "1")
    )
    (link,) = scenario.network.links
    assert link.between == ("Lyon", "Paris")
    assert link.latency_ms == pytest.approx(392 / 200, rel=0.01)
    assert great_circle_km((179.5, 0.0), (-179.5, 0.0)) == pytest.approx(111.2, rel=0.01)


def test_nodes_without_a_place_stand_between_their_neighbours(tmp_path: Path) -> None:
    scenario = moved(
        tmp_path,
        *(node("0", "A", 179, 0), node("1", "B"), node("2", "C", -179, 0), node("3", "D")),
        *(edge("0", "1"), edge("1", "2"), edge("1", "3")),
    )
    pops = {pop.name: pop for pop in scenario.network.pops}
    x = pops["B"].x
    assert x is not None
    assert abs(x) == pytest.approx(180)
    assert pops["D"].x == x
    latencies = {link.between: link.latency_ms for link in scenario.network.links}
    assert latencies["B", "D"] == 0.05
    assert any("2 nodes without coordinates, 2 of them" in note for note in scenario.notes)


def test_without_any_place_a_link_takes_a_millisecond(tmp_path: Path) -> None:
    scenario = moved(tmp_path, node("0", "A"), node("1", "B"), edge("0", "1"))
    assert scenario.network.links[0].latency_ms == 1
    assert scenario.network.pops[0].x is None


def test_parallel_edges_merge_and_unknown_speeds_take_the_median(tmp_path: Path) -> None:
    scenario = moved(
        tmp_path,
        *(node("0", "A"), node("1", "B"), node("2", "C")),
        *(edge("0", "1", 8e9), edge("1", "0", 16e9), edge("1", "2"), edge("2", "2", 8e6)),
        edge("0", "2", 24e9),
    )
    bandwidth = {link.between: link.bandwidth_mb_s for link in scenario.network.links}
    assert bandwidth == {("A", "B"): 3000, ("B", "C"): 2000, ("A", "C"): 3000}
    notes = " ".join(scenario.notes)
    assert "1 parallel links merged" in notes
    assert "1 links from a node to itself dropped" in notes
    assert "1 of 4 links without a speed; taken as 2000 MB/s" in notes


def test_only_the_largest_part_is_kept_and_the_rest_counted(tmp_path: Path) -> None:
    scenario = moved(
        tmp_path, *(node(str(i), f"N{i}") for i in range(5)), edge("1", "2"), edge("2", "3")
    )
    assert [pop.name for pop in scenario.network.pops] == ["N1", "N2", "N3"]
    assert any("2 nodes outside the largest connected part" in note for note in scenario.notes)


def test_labels_become_unique_names_that_the_schema_allows(tmp_path: Path) -> None:
    labels = ["Zürich > HB", "Zürich > HB", "?", "None", "run", "server", "x" * 99]
    nodes = [node(str(i), label.replace(">", "&gt;")) for i, label in enumerate(labels)]
    edges = [edge("0", str(i)) for i in range(1, len(labels))]
    scenario = moved(tmp_path, *nodes, *edges)
    assert [pop.name for pop in scenario.network.pops] == [
        *("Zurich-HB", "Zurich-HB-2", "node-2", "node-3", "run-2", "server-2"),
        "x" * 48,
    ]


def test_roles_keep_their_resources_and_stand_far_apart() -> None:
    graph: nx.Graph[str] = nx.path_graph(["a", "b", "c", "d", "e"])
    nx.set_edge_attributes(graph, 1.0, "latency")
    assert spread(graph, 3) == ["b", "e", "a"]
    assert spread(graph, 99) == ["b", "e", "a", "c", "d"]
    assert roles(DDOS) == ("pop1", "pop2", "pop3", "pop4", "pop5", "pop6")


def test_a_smaller_graph_takes_several_roles_a_node(tmp_path: Path) -> None:
    scenario = moved(tmp_path, node("0", "A"), node("1", "B"), edge("0", "1"))
    pops = {pop.name: pop for pop in scenario.network.pops}
    assert pops["A"].disk_gb == 700
    assert pops["B"].disk_gb == 400
    assert scenario.monitors[0].link == "B>server"
    assert scenario.network.repository == "A"


def test_watched_and_broken_links_become_links_towards_the_same_role(tmp_path: Path) -> None:
    text = (REPOSITORY / "scenarios" / "quickstart-ring.yaml").read_text(encoding="utf-8")
    like = parse_scenario(
        text.replace("{link: south>shop, at: south", "{link: south>west, at: west")
        + "faults: [{at_s: 1, kind: link-down, link: [west, north]},"
        " {at_s: 2, kind: crash, agent: east}]\n",
        "f",
    )
    nodes = [node(str(i), f"N{i}") for i in range(9)]
    scenario = moved(tmp_path, *nodes, *(edge(str(i), str(i + 1)) for i in range(8)), like=like)
    links = {frozenset(link.between) for link in scenario.network.links}
    (monitor,) = scenario.monitors
    source, target = monitor.link.split(">")
    assert {source, target} in links
    assert monitor.at == target
    assert scenario.faults[0].link is not None
    assert set(scenario.faults[0].link) in links
    assert scenario.faults[1].agent in {pop.name for pop in scenario.network.pops}
    assert scenario.goals == like.goals
    assert scenario.functions == like.functions


BOMB = '<!DOCTYPE g [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><graphml>&b;</graphml>'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the file is empty"),
        ("hello", "no XML"),
        ("<graphml>", "line 1: no XML"),
        ("<svg/>", "begins with <svg>"),
        ("<graphml/>", "holds no node"),
        (BOMB, "document types and entities are not allowed"),
        ("<graphml><graph><node/></graph></graphml>", "has no attribute 'id'"),
        ('<graphml><node id="a"/><node id="a"/></graphml>', "two nodes have the same id"),
        ('<graphml><node id="a"/><edge source="a" target="b"/></graphml>', "no such node"),
        ('<graphml><node id="a"/><data key="x">1</data></graphml>', "no GraphML"),
        (
            '<graphml><graph><node id="a"><data key="x">1</data></node></graph></graphml>',
            "no key x",
        ),
        ('<graphml><graph edgedefault="undirected"><node id="a"/></graph></graphml>', None),
        ("<graphml>" + "<a>" * 2000, "no XML"),
    ],
)
def test_junk_is_refused_in_one_line(tmp_path: Path, text: str, why: str | None) -> None:
    path = tmp_path / "junk.graphml"
    path.write_text(text, encoding="utf-8")
    if why is None:
        assert len(from_graphml(path, DDOS).network.pops) == 1
        return
    with pytest.raises(ScenarioError) as caught:
        from_graphml(path, DDOS)
    assert str(caught.value).startswith(f"{path}: ")
    assert why in str(caught.value)
    assert str(caught.value).isprintable()


@settings(max_examples=examples(32), suppress_health_check=list(HealthCheck))
@given(at=st.integers(0, 400), gone=st.integers(0, 60), put=st.text("<>/\"'=a0& \n", max_size=6))
def test_damaged_graphs_never_raise_anything_else(
    tmp_path: Path, at: int, gone: int, put: str
) -> None:
    whole = HEAD + node("0", "A", 1, 2) + node("1", "B", 3, 4) + edge("0", "1", 8e9) + TAIL
    start = max(0, len(whole) - 400) + at
    path = tmp_path / "damaged.graphml"
    path.write_text(whole[:start] + put + whole[start + gone :], encoding="utf-8")
    try:
        scenario = from_graphml(path, DDOS)
    except ScenarioError:
        return
    assert not list(offences(scenario))
