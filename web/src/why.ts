/** Why: the chain of causes of a fact, folded so that the first sight is short. */

import { type EventStore, type LogEvent, names, number, table, text } from "./store";
import type { World } from "./world";
import { clock, label, listed, written } from "./words";

/** Lines of a chain at first sight. */
export const MOST_LINES = 12;

/** What an event is in the story: how much it matters in a folded chain, and its mark. */
const ROLES: Record<string, [weight: number, role: string]> = {
  "analysis.done": [9, "saw"],
  "trouble.diagnosed": [9, "saw"],
  "attestation.result": [9, "saw"],
  "trust.suspected": [8, "saw"],
  "workload.forecast": [8, "saw"],
  "fault.injected": [9, "happened"],
  "agent.crashed": [9, "happened"],
  "agent.gone": [8, "saw"],
  "link.changed": [9, "happened"],
  "belief.changed": [7, "believed"],
  "trust.changed": [8, "decided"],
  "auction.awarded": [8, "decided"],
  "auction.failed": [8, "decided"],
  "claim.granted": [7, "decided"],
  "claim.refused": [7, "decided"],
  "measure.applied": [8, "did"],
  "measure.withdrawn": [8, "decided"],
  "scaling.refused": [8, "decided"],
  "loop.passed": [7, "decided"],
  "instance.started": [6, "did"],
  "contract.accepted": [5, "decided"],
  "goal.adopted": [4, "wanted"],
  "auction.called": [4, "wanted"],
  "auction.bid": [4, "offered"],
  "plan.started": [2, "planned"],
  "run.started": [1, "begin"],
};

export const role = (event: LogEvent): string => ROLES[event.kind]?.[1] ?? "did";
const weight = (event: LogEvent): number => ROLES[event.kind]?.[0] ?? 3;

export const isObservation = (event: LogEvent): boolean => role(event) === "saw" || role(event) === "happened";

/** The first observation that a chain (nearest cause first) goes back to. */
export const firstObservation = (chain: LogEvent[]): LogEvent | undefined => chain.findLast(isObservation);

export type Line = { event: LogEvent } | { hidden: LogEvent[] };

/** A chain in at most `most` lines: the fact, the root, and what matters most between them. */
export function fold(chain: LogEvent[], most = MOST_LINES): Line[] {
  if (chain.length <= most) return chain.map((event) => ({ event }));
  const kept = new Set([0, chain.length - 1]);
  const seen = firstObservation(chain);
  const order = chain
    .map((event, at) => ({ at, worth: event === seen ? 100 : weight(event) }))
    .sort((a, b) => b.worth - a.worth || a.at - b.at);
  for (const { at } of order) {
    kept.add(at);
    if (lines(chain, kept).length > most) kept.delete(at);
  }
  return lines(chain, kept);
}

function lines(chain: LogEvent[], kept: Set<number>): Line[] {
  const found: Line[] = [];
  let hidden: LogEvent[] = [];
  chain.forEach((event, at) => {
    if (!kept.has(at)) {
      hidden.push(event);
      return;
    }
    if (hidden.length) found.push({ hidden });
    hidden = [];
    found.push({ event });
  });
  return found;
}

/** Rows of figures that an observation went by, the head first. */
export function evidence(event: LogEvent, most = 6): { head: string[]; rows: string[][]; more: number } | undefined {
  const found = table(event.data, "evidence");
  const entries = Object.entries(found);
  if (!entries.length) return undefined;
  const nested = entries.filter(([, row]) => row && typeof row === "object");
  if (!nested.length)
    return { head: ["figure", "value"], rows: entries.map(([name, value]) => [label(name), written(value)]), more: 0 };
  const fields = [...new Set(nested.flatMap(([, row]) => Object.keys(row as object)))].slice(0, 4);
  const rows = nested
    .slice(0, most)
    .map(([name, row]) => [name.replace(">", " → "), ...fields.map((field) => written((row as Record<string, unknown>)[field]))]);
  return { head: ["flow", ...fields.map(label)], rows, more: nested.length - rows.length };
}

// -- facts ------------------------------------------------------------------------------------

/** Something that a reader can point at. Each leads to one event, whose causes are why it is so. */
export type Fact =
  | { type: "event"; id: string }
  | { type: "traffic"; source: string; from: number; to: number }
  | { type: "measure"; measure: string; time: number }
  | { type: "rule"; source: string; measure: string }
  | { type: "award"; auction: string }
  | { type: "refusal"; auction: string; agent: string };

/** Sources that the log names: what was analysed of each, and the measures that hold it. */
export class Sources {
  readonly looks = new Map<string, { time: number; event: LogEvent; verdict: "named" | "passed" }[]>();
  readonly blocks = new Map<string, LogEvent[]>();

  add(event: LogEvent): void {
    if (event.kind === "measure.applied")
      for (const source of names(event.data, "sources")) {
        const events = this.blocks.get(source);
        if (events) events.push(event);
        else this.blocks.set(source, [event]);
      }
    if (event.kind !== "analysis.done") return;
    const named = new Set<string>();
    for (const source of names(event.data, "reported")) named.add(source);
    // A key without an arrow is a target, of which nothing is said here.
    for (const flow of [...names(event.data, "found"), ...Object.keys(table(event.data, "evidence"))])
      if (flow.includes(">")) named.add(flow.split(">")[0]);
    for (const source of named) this.note(source, event, "named");
    for (const source of Object.keys(table(event.data, "passed"))) if (!named.has(source)) this.note(source, event, "passed");
  }

  private note(source: string, event: LogEvent, verdict: "named" | "passed"): void {
    if (!/^[\d.]+$|:/.test(source)) return;
    const looks = this.looks.get(source);
    const look = { time: event.time, event, verdict };
    if (looks) looks.push(look);
    else this.looks.set(source, [look]);
  }

  all(): string[] {
    return [...new Set([...this.blocks.keys(), ...this.looks.keys()])];
  }
}

/** Whether the traffic of a source was dropped between two times, and the event that decided. */
export function trafficOf(world: World, sources: Sources, source: string, from: number, to: number): { dropped: boolean; event?: LogEvent; until?: LogEvent } {
  for (const event of (sources.blocks.get(source) ?? []).toReversed()) {
    if (event.time > to) continue;
    const ended = world.measures.of(text(event.data, "measure"), event);
    if (!ended || ended.time > from) return { dropped: true, event, until: ended };
  }
  const look = (sources.looks.get(source) ?? []).findLast((each) => each.time <= to);
  return { dropped: false, event: look?.event };
}

/** The event that a fact leads to. */
export function eventOf(store: EventStore, world: World, sources: Sources, fact: Fact): LogEvent | undefined {
  switch (fact.type) {
    case "event":
      return store.get(fact.id);
    case "traffic":
      return trafficOf(world, sources, fact.source, fact.from, fact.to).event ?? world.start;
    case "measure":
      return world.measures.all.findLast((life) => life.key === fact.measure && life.time <= fact.time)?.begun;
    case "rule":
      return sources.blocks.get(fact.source)?.findLast((event) => text(event.data, "measure") === fact.measure);
    case "award":
      return store.of("auction.awarded").findLast((event) => text(event.data, "auction") === fact.auction);
    case "refusal":
      return (
        store.of("auction.refused").findLast((event) => event.agent === fact.agent && text(event.data, "auction") === fact.auction) ??
        [...store.of("auction.awarded"), ...store.of("auction.failed")].findLast(
          (event) => text(event.data, "auction") === fact.auction && fact.agent in table(event.data, "refusals"),
        )
      );
  }
}

/** Why an address is blocked, or why it is not, in sentences. */
export function aboutAddress(world: World, sources: Sources, address: string, time: number): { title: string; words: string[]; event?: LogEvent } {
  const { dropped, event, until } = trafficOf(world, sources, address, time, time);
  const looks = (sources.looks.get(address) ?? []).filter((look) => look.time <= time);
  const words: string[] = [];
  if (dropped && event) {
    const ends = until ? `; the filter was lifted at ${clock(until.time)}` : "";
    words.push(`Its traffic is dropped at ${text(event.data, "pop")} since ${clock(event.time)}${ends}.`);
  }
  const named = looks.filter((look) => look.verdict === "named");
  if (named.length) {
    const first = named[0];
    words.push(`${first.event.agent} named it as an attacker at ${clock(first.time)}: ${figures(first.event, address)}.`);
  }
  for (const look of looks.filter((each) => each.verdict === "passed").slice(-2))
    words.push(`${look.event.agent} saw it at ${clock(look.time)} and let it pass: ${written(table(look.event.data, "passed")[address])}.`);
  if (!words.length) words.push("Up to this instant no analysis names this address, and no measure holds it.");
  if (!dropped && !named.length) words.push("It would be blocked if an analysis found that its connections never complete, or that it floods.");
  const title = dropped ? `${address} is blocked` : named.length ? `${address} is not blocked now` : `${address} passes`;
  return { title, words, event };
}

function figures(event: LogEvent, address: string): string {
  const row = Object.entries(table(event.data, "evidence")).find(([flow]) => flow.split(">")[0] === address)?.[1];
  return row ? written(row) : "it is among what was found";
}

/** What stands beside a measure: whom it holds, since when, and how many. */
export function holds(event: LogEvent): string {
  const sources = names(event.data, "sources");
  const rate = number(event.data, "rate_mb_s", -1);
  const verdict = text(event.data, "verdict");
  if (sources.length) return `${verdict === "drop" || rate === 0 ? "drops" : "limits"} ${listed(sources, 2)}`;
  if (verdict === "serve") return `answers up to ${written(rate)} MB/s`;
  if (rate === 0) return "nothing passes";
  return rate > 0 ? `${written(rate)} MB/s pass` : verdict;
}
