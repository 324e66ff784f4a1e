/** Auctions of the log, each bid taken apart: weight × scaled term (eq. 3.1); the least wins. */

import { type Data, type EventStore, type LogEvent, type View, natural, number, rows, table, text } from "./store";
import { figure } from "./words";

/** Terms of which more is better, beside those that a call says so of. */
const MORE_IS_BETTER = new Set(["D", "trust"]);
const UNITS: Record<string, string> = { T: "s", C: "MB/s", D: "ms" };
const LONG: Record<string, string> = { time: "T", cost: "C", decentralisation: "D" };
export const TERM_NAMES: Record<string, string> = { T: "download time", C: "cost", D: "decentralisation", trust: "trust", load: "load", energy: "energy" };
const NOISE = 1e-9;
/** Terms are shown, and compared, to so much. */
const SHOWN = 1e-6;

export interface Bid {
  agent: string;
  vnf: string;
  units: number;
  path: string[];
  reuse: string;
  /** As the auctioneer ranked it; undefined if it never did. */
  utility?: number;
  terms: Record<string, number>;
}

export interface Part {
  term: string;
  value: number;
  scaled: number;
  weight: number;
}

export interface Auction {
  key: string;
  goal: string;
  auctioneer: string;
  call: LogEvent;
  close?: LogEvent;
  outcome: "awarded" | "failed" | "open";
  winner: string;
  reason: string;
  bids: Bid[];
  refusals: { agent: string; reason: string; event: LogEvent }[];
  silent: string[];
  /** Weights by term. */
  weights: Record<string, number>;
  constraints: Record<string, unknown>;
  references?: Record<string, number>;
  moreIsBetter: Set<string>;
}

export class Auctions implements View {
  readonly all: LogEvent[][] = [];
  private readonly latest = new Map<string, LogEvent[]>();
  private readonly of = new Map<string, LogEvent[]>();
  private readonly made = new Map<LogEvent[], { length: number; auction: Auction }>();

  add(event: LogEvent): void {
    if (!event.kind.startsWith("auction.") || event.kind === "auction.waiting") return;
    const name = text(event.data, "auction");
    let events = this.latest.get(name);
    if (!events || event.kind === "auction.called") {
      events = [];
      this.latest.set(name, events);
      this.all.push(events);
    }
    events.push(event);
    this.of.set(event.id, events);
  }

  /** The auction that an event belongs to. */
  with(event: LogEvent): Auction | undefined {
    const events = this.of.get(event.id);
    return events && this.read(events);
  }

  read(events: LogEvent[]): Auction {
    const known = this.made.get(events);
    if (known?.length === events.length) return known.auction;
    const auction = read(events);
    this.made.set(events, { length: events.length, auction });
    return auction;
  }
}

function read(events: LogEvent[]): Auction {
  const call = events[0];
  const close = events.findLast((e) => e.kind === "auction.awarded" || e.kind === "auction.failed");
  const preferences = table(call.data, "preferences");
  const weights: Record<string, number> = {};
  for (const [name, weight] of Object.entries(preferences))
    if (typeof weight === "number" && weight !== 0) weights[LONG[name] ?? name] = weight;
  const ranked = rows(close?.data, "ranking").map((row) => bid(text(row, "agent"), row));
  const listed = new Set(ranked.map((b) => `${b.agent} ${b.vnf} ${b.units}`));
  const unranked = events
    .filter((e) => e.kind === "auction.bid")
    .flatMap((e) => rows(e.data, "bids").map((row) => bid(e.agent, row)))
    .filter((b) => !listed.has(`${b.agent} ${b.vnf} ${b.units}`));
  const said = events
    .filter((e) => e.kind === "auction.refused")
    .map((event) => ({ agent: event.agent, reason: text(event.data, "reason"), event }));
  const heard = new Set(said.map((refusal) => refusal.agent));
  const told = Object.entries(table(close?.data, "refusals"))
    .filter(([agent]) => !heard.has(agent))
    .map(([agent, reason]) => ({ agent, reason: String(reason), event: close ?? call }));
  const further = table(call.data, "terms");
  const references = call.data.references && typeof call.data.references === "object"
    ? { ...(table(call.data, "references") as Record<string, number>) }
    : undefined;
  const more = new Set(MORE_IS_BETTER);
  for (const [name, about] of Object.entries(further)) {
    const row = about as Data;
    if (row?.higher_is_better === true) more.add(name);
    if (row?.higher_is_better === false) more.delete(name);
    if (references && !(name in references)) references[name] = number(row, "reference", 1);
  }
  return {
    key: call.id,
    goal: text(call.data, "goal"),
    auctioneer: call.agent,
    call,
    close,
    outcome: !close ? "open" : close.kind === "auction.awarded" ? "awarded" : "failed",
    winner: text(close?.data, "winner"),
    reason: text(close?.data, "reason"),
    bids: [...ranked, ...unranked],
    refusals: [...said, ...told].sort((a, b) => natural(a.agent, b.agent)),
    silent: (close?.data.silent as string[] | undefined)?.map(String) ?? [],
    weights,
    constraints: table(call.data, "constraints"),
    references,
    moreIsBetter: more,
  };
}

const NO_TERMS = new Set(["agent", "vnf", "units", "utility", "path", "reuse"]);

function bid(agent: string, row: Data): Bid {
  const terms: Record<string, number> = {};
  for (const [name, value] of Object.entries(row))
    if (!NO_TERMS.has(name) && typeof value === "number") terms[name] = value;
  return {
    agent,
    vnf: text(row, "vnf"),
    units: number(row, "units", 1),
    path: Array.isArray(row.path) ? row.path.map(String) : [],
    reuse: text(row, "reuse"),
    utility: typeof row.utility === "number" ? row.utility : undefined,
    terms,
  };
}

export const unit = (term: string): string => UNITS[term] ?? "";

/** What each weighed term adds to the utility of each bid, under `weights`. */
export function shares(auction: Auction, bids: Bid[], weights = auction.weights): Part[][] {
  const terms = Object.keys(weights).filter((t) => weights[t] && bids.every((b) => t in b.terms));
  const columns = terms.map((term) => {
    const more = auction.moreIsBetter.has(term);
    const signed = bids.map((b) => (more ? -b.terms[term] : b.terms[term]));
    if (auction.references) {
      const by = auction.references[term] || 1;
      return signed.map((value) => (more ? 1 : 0) + value / by);
    }
    const least = Math.min(...signed);
    const spread = Math.max(...signed) - least;
    const noise = Math.max(SHOWN, NOISE * Math.max(...signed.map(Math.abs)));
    return signed.map((value) => (spread <= noise ? 0 : (value - least) / spread));
  });
  return bids.map((b, row) =>
    terms.map((term, at) => ({ term, value: b.terms[term], scaled: columns[at][row], weight: weights[term] })),
  );
}

export const sum = (parts: Part[]): number => parts.reduce((all, p) => all + p.weight * p.scaled, 0);

/** With which value of `term` bid `own` would equal bid `best`; undefined if no value does. */
export function needed(auction: Auction, bids: Bid[], own: number, best: number, term: string): number | undefined {
  const behind = (value: number) => {
    const changed = bids.map((b, at) => (at === own ? { ...b, terms: { ...b.terms, [term]: value } } : b));
    const parts = shares(auction, changed);
    return sum(parts[own]) - sum(parts[best]);
  };
  let now = bids[own].terms[term];
  let ideal = auction.moreIsBetter.has(term) ? Math.max(...bids.map((b) => b.terms[term])) : 0;
  if (behind(ideal) > 0) return undefined;
  for (let step = 0; step < 60; step++) {
    const middle = (now + ideal) / 2;
    if (behind(middle) > 0) now = middle;
    else ideal = middle;
  }
  return ideal;
}

const LACKING = /needs ([\d.]+) ([\w ]+), ([\d.]+) free/;

/** Why `agent` did not win, and what would have to change, in sentences. */
export function whyNot(auction: Auction, agent: string): string[] {
  const refusal = auction.refusals.find((r) => r.agent === agent);
  if (refusal) {
    const offered = auction.bids.some((b) => b.agent === agent);
    const words = [`${agent} ${offered ? "bid, and was refused" : "did not bid"}: ${refusal.reason || "it gave no reason"}.`];
    const lacking = LACKING.exec(refusal.reason);
    if (lacking && !offered)
      words.push(`It could have bid with ${figure(Number(lacking[1]) - Number(lacking[3]))} more ${lacking[2]} free.`);
    return words;
  }
  const bids = auction.bids.filter((b) => b.utility !== undefined);
  const own = bids.findIndex((b) => b.agent === agent);
  const best = bids.findIndex((b) => b.agent === auction.winner);
  if (own >= 0 && own === best) {
    const second = bids.findIndex((_, at) => at !== own);
    if (second < 0) return [`${agent} made the only bid that was ranked.`];
    return decided(auction, bids, own, second);
  }
  if (own >= 0 && best >= 0) {
    const words = decided(auction, bids, best, own);
    const parts = shares(auction, bids)[own];
    const ways = parts.flatMap((part) => {
      const value = needed(auction, bids, own, best, part.term);
      if (value === undefined || Math.abs(value - part.value) < NOISE) return [];
      return [`${TERM_NAMES[part.term] ?? part.term} ${figure(value)} ${unit(part.term)}`.trim()];
    });
    words.push(
      ways.length
        ? `${agent} would have equalled ${auction.winner} with ${ways.join(", or ")}, all else equal.`
        : `No single term of its bid could have made ${agent} win, however good.`,
    );
    return words;
  }
  if (auction.silent.includes(agent)) return [`${agent} was called and did not answer before the deadline.`];
  if (auction.bids.some((b) => b.agent === agent)) return [`${agent} bid, but the auction closed before its bid was ranked.`];
  const asked = number(auction.call.data, "bidders");
  return [
    `${agent} was not asked: ${asked === 1 ? "one agent was" : `${asked} agents were`} called. The agents where the traffic passes are asked first, and all others only if those refuse; an agent that is taken for lost is not asked.`,
  ];
}

function decided(auction: Auction, bids: Bid[], best: number, other: number): string[] {
  const parts = shares(auction, bids);
  const begin = `${bids[best].agent} has utility ${figure(sum(parts[best]), 4)}, ${bids[other].agent} ${figure(sum(parts[other]), 4)}; the lowest wins.`;
  const gaps = parts[best].map((p, at) => ({ term: p.term, gap: parts[other][at].weight * parts[other][at].scaled - p.weight * p.scaled }));
  const worst = gaps.sort((a, b) => b.gap - a.gap)[0];
  if (!worst || worst.gap <= NOISE) return [begin, "The bids are equal: download time decides, then cost, decentralisation and the name."];
  return [begin, `The term that decided is ${TERM_NAMES[worst.term] ?? worst.term}: it makes ${figure(worst.gap, 4)} of the difference.`];
}

/** All agents that the run knows, for the question of why not. */
export function candidates(store: EventStore, auction: Auction): string[] {
  const start = store.events[0];
  const agents = Array.isArray(start?.data.agents) ? start.data.agents.map(String) : [];
  return [...new Set([...agents, ...auction.bids.map((b) => b.agent), ...auction.refusals.map((r) => r.agent)])].sort(natural);
}
