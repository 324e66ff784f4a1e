/** Whom the agents trust: wrapping, attestation, standings, the ledger's blocks, keys. */

import { type LogEvent, type View, lastAt, natural, number, text } from "./store";
import { push, type Step } from "./world";

export interface Result {
  time: number;
  verifier: string;
  attester: string;
  tier: string;
  round: number;
  event: LogEvent;
}

export interface Block {
  position: number;
  time: number;
  agent: string;
  standing: string;
  event: LogEvent;
}

export class Trust implements View {
  readonly enrolled = new Map<string, LogEvent>();
  readonly results: Result[] = [];
  readonly standings = new Map<string, Step[]>();
  readonly blocks: Block[] = [];
  readonly keys = new Map<number, { time: number; by: string; agents: LogEvent[] }>();
  readonly agreed: LogEvent[] = [];
  /** Service levels that an agent saw broken. */
  readonly breaches: LogEvent[] = [];
  /** The first time that each agent was found genuine. */
  readonly chain: Result[] = [];
  modelled = false;
  /** Ids of the events that told of a change of standing first. */
  readonly first = new Set<string>();
  private readonly seen = new Set<string>();
  private readonly linked = new Set<string>();

  add(event: LogEvent): void {
    const data = event.data;
    switch (event.kind) {
      case "trust.enrolled":
        if (!this.enrolled.has(text(data, "agent"))) this.enrolled.set(text(data, "agent"), event);
        break;
      case "attestation.result": {
        const result = {
          time: event.time,
          verifier: event.agent,
          attester: text(data, "attester"),
          tier: text(data, "tier"),
          round: number(data, "round"),
          event,
        };
        this.results.push(result);
        if (data.modelled === true) this.modelled = true;
        if (result.round === 0 && result.tier === "affirming" && !this.linked.has(result.attester)) {
          this.linked.add(result.attester);
          this.chain.push(result);
        }
        break;
      }
      case "trust.changed": {
        const agent = text(data, "agent");
        const position = number(data, "position");
        const key = `${agent} ${position}`;
        if (this.seen.has(key)) break;
        this.seen.add(key);
        this.first.add(event.id);
        const standing = text(data, "standing");
        push(this.standings, agent, { time: event.time, value: standing, event });
        this.blocks.push({ position, time: event.time, agent, standing, event });
        break;
      }
      case "key.installed": {
        const epoch = number(data, "epoch");
        const known = this.keys.get(epoch) ?? { time: event.time, by: text(data, "by"), agents: [] };
        known.agents.push(event);
        this.keys.set(epoch, known);
        break;
      }
      case "association.agreed":
        this.agreed.push(event);
        break;
      case "association.breached":
        this.breaches.push(event);
        break;
    }
  }

  get agents(): string[] {
    return [...new Set([...this.enrolled.keys(), ...this.results.map((r) => r.attester)])].sort(natural);
  }

  /** The standing of an agent at `time`, with the event that says so. */
  standing(agent: string, time: number): Step | undefined {
    const steps = this.standings.get(agent) ?? [];
    return steps[lastAt(steps, time)];
  }
}
