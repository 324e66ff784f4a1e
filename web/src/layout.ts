/** Where PoPs and hosts stand on the map, and the shortest ways between PoPs. */

import { forceCollide, forceLink, forceManyBody, forceSimulation, forceX, forceY } from "d3-force";
import type { HostInfo, LinkInfo, PopInfo } from "./world";

export interface Point {
  x: number;
  y: number;
}

export interface Layout {
  pops: Map<string, Point>;
  hosts: Map<string, Point>;
  width: number;
  height: number;
}

const GAP = 150;

/** By the coordinates of the scenario where it gives them; else by the links, as springs. */
export function layout(pops: PopInfo[], links: LinkInfo[], hosts: HostInfo[]): Layout {
  const places = new Set(pops.map((pop) => `${pop.x} ${pop.y}`));
  const given = places.size > pops.length / 2 && pops.length > 1;
  const points = given ? scaled(pops) : springs(pops, links);
  const found = new Map<string, Point>();
  const taken = new Map<string, number[]>();
  for (const host of hosts) {
    const pop = points.get(host.at);
    if (!pop) continue;
    const used = taken.get(host.at) ?? ways(host.at, pop, links, points);
    const angle = freest(used);
    taken.set(host.at, [...used, angle]);
    found.set(host.name, { x: pop.x + 88 * Math.cos(angle), y: pop.y + 70 * Math.sin(angle) });
  }
  const all = [...points.values(), ...found.values()];
  const left = Math.min(...all.map((p) => p.x)) - 90;
  const top = Math.min(...all.map((p) => p.y)) - 72;
  for (const point of all) {
    point.x -= left;
    point.y -= top;
  }
  return {
    pops: points,
    hosts: found,
    width: Math.max(360, Math.max(...all.map((p) => p.x)) + 90),
    height: Math.max(240, Math.max(...all.map((p) => p.y)) + 92),
  };
}

/** Below a PoP stand its functions, above it to the left what attacks it. */
const RESERVED = [Math.PI / 2, Math.atan2(-44, -62)];

/** The directions in which links leave a PoP, and those that are reserved. */
function ways(name: string, pop: Point, links: LinkInfo[], points: Map<string, Point>): number[] {
  const others = links.flatMap((link) => (link.a === name ? [link.b] : link.b === name ? [link.a] : []));
  return [
    ...RESERVED,
    ...others.flatMap((other) => {
      const to = points.get(other);
      return to ? [Math.atan2(to.y - pop.y, to.x - pop.x)] : [];
    }),
  ];
}

/** The direction that is furthest from all that are used. */
function freest(used: number[]): number {
  const apart = (a: number, b: number) => Math.abs(Math.atan2(Math.sin(a - b), Math.cos(a - b)));
  const choices = Array.from({ length: 36 }, (_, at) => (at * Math.PI) / 18);
  const room = (angle: number) => Math.min(...used.map((other) => apart(angle, other)));
  return choices.reduce((best, angle) => (room(angle) > room(best) + 1e-9 ? angle : best));
}

function scaled(pops: PopInfo[]): Map<string, Point> {
  const near: number[] = pops.map((pop) =>
    Math.min(...pops.filter((other) => other !== pop).map((other) => Math.hypot(pop.x - other.x, pop.y - other.y) || Infinity)),
  );
  const typical = near.filter(Number.isFinite).sort((a, b) => a - b)[Math.floor(near.length / 4)] || 1;
  const scale = GAP / typical;
  return new Map(pops.map((pop) => [pop.name, { x: 1.25 * pop.x * scale, y: -pop.y * scale }]));
}

function springs(pops: PopInfo[], links: LinkInfo[]): Map<string, Point> {
  const nodes = pops.map((pop, at) => ({ name: pop.name, x: 300 * Math.cos((2 * Math.PI * at) / pops.length), y: 300 * Math.sin((2 * Math.PI * at) / pops.length) }));
  const known = new Set(pops.map((pop) => pop.name));
  const edges = links.filter((l) => known.has(l.a) && known.has(l.b)).map((l) => ({ source: l.a, target: l.b }));
  forceSimulation(nodes)
    .force("link", forceLink<(typeof nodes)[number], (typeof edges)[number]>(edges).id((node) => node.name).distance(GAP).strength(0.6))
    .force("charge", forceManyBody().strength(-900))
    .force("x", forceX(0).strength(0.04))
    .force("y", forceY(0).strength(0.06))
    .force("collide", forceCollide(60))
    .stop()
    .tick(300);
  return new Map(nodes.map((node) => [node.name, { x: node.x, y: node.y }]));
}

/** The way of least latency from `from` to `to`; empty if there is none. */
export function shortest(links: LinkInfo[], from: string, to: string, cut: Set<string> = new Set()): string[] {
  const near = new Map<string, [string, number][]>();
  for (const link of links) {
    if (cut.has(`${link.a}>${link.b}`) || cut.has(`${link.b}>${link.a}`)) continue;
    near.set(link.a, [...(near.get(link.a) ?? []), [link.b, link.latency]]);
    near.set(link.b, [...(near.get(link.b) ?? []), [link.a, link.latency]]);
  }
  const best = new Map([[from, 0]]);
  const before = new Map<string, string>();
  const open = new Set([from]);
  while (open.size) {
    const here = [...open].reduce((a, b) => ((best.get(a) ?? 0) <= (best.get(b) ?? 0) ? a : b));
    open.delete(here);
    if (here === to) break;
    for (const [next, latency] of near.get(here) ?? []) {
      const reached = (best.get(here) ?? 0) + latency;
      if (reached >= (best.get(next) ?? Infinity)) continue;
      best.set(next, reached);
      before.set(next, here);
      open.add(next);
    }
  }
  if (from !== to && !before.has(to)) return [];
  const way = [to];
  while (way[0] !== from) way.unshift(before.get(way[0]) as string);
  return way;
}
