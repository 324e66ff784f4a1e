/** The state of the run at any instant: what stands, runs, is in force, is believed and open. */

import { type Data, type LogEvent, type View, lastAt, names, number, rows, table, text } from "./store";

/** Something that begins with one event and ends with another. */
export interface Life {
  key: string;
  time: number;
  begun: LogEvent;
  ended?: LogEvent;
}

export class Lives {
  readonly all: Life[] = [];
  private readonly open = new Map<string, Life>();
  private readonly begun = new Map<string, Life>();
  private readonly latest = new Map<string, Life>();

  begin(key: string, event: LogEvent): void {
    if (this.open.has(key)) return;
    const life = { key, time: event.time, begun: event };
    this.open.set(key, life);
    this.all.push(life);
    this.begun.set(event.id, life);
    this.latest.set(key, life);
  }

  /** The last life of `key`, also after its end. */
  last(key: string): Life | undefined {
    return this.latest.get(key);
  }

  end(key: string, event: LogEvent): void {
    const life = this.open.get(key);
    if (!life) return;
    life.ended = event;
    this.open.delete(key);
  }

  /** What ended the life of `key` that `event` began; undefined while it goes on. */
  of(key: string, event: LogEvent): LogEvent | undefined {
    const life = this.begun.get(event.id);
    return life?.key === key ? life.ended : undefined;
  }

  /** What stood at `time`, in the order of its beginnings. */
  at(time: number): Life[] {
    const found: Life[] = [];
    for (const life of this.all) {
      if (life.time > time) break;
      if (!life.ended || life.ended.time > time) found.push(life);
    }
    return found;
  }
}

export interface Step {
  time: number;
  value: string;
  event: LogEvent;
}

export interface PopInfo {
  name: string;
  x: number;
  y: number;
  cores: number;
  memory: number;
  disk: number;
}
export interface LinkInfo {
  a: string;
  b: string;
  bandwidth: number;
  latency: number;
  loss: number;
}
export interface HostInfo {
  name: string;
  at: string;
  address: string;
}
export interface SourceGroup {
  group: string;
  at: string[];
  targets: string[];
  profile: string;
  malicious: boolean;
  count: number;
}
export interface Sample {
  time: number;
  legitimate: number;
  malicious: number;
  wanted: number;
  event: LogEvent;
}

/** What a measure passed and held back since it is in force, in MB. */
export interface Hits {
  time: number;
  passed: number;
  held: number;
  event: LogEvent;
}
/** The log tells of a measure so often, in seconds, as long as it does anything. */
const COUNTED_S = 5;

const ALARMS = ["overUsage(", "connectionFlood(", "underAttack(", "serviceBreached(", "serviceTrouble(", "entityTrouble("];

export const isAlarm = (event: LogEvent): boolean =>
  event.kind === "belief.changed" && ALARMS.some((alarm) => text(event.data, "belief").startsWith(alarm));

export class World implements View {
  start?: LogEvent;
  ending?: LogEvent;
  pops: PopInfo[] = [];
  links: LinkInfo[] = [];
  hosts: HostInfo[] = [];
  groups: SourceGroup[] = [];
  loops: Data[] = [];
  readonly instances = new Lives();
  readonly measures = new Lives();
  readonly goals = new Lives();
  readonly chains = new Lives();
  readonly downloads = new Lives();
  readonly alarms = new Lives();
  readonly auctions = new Lives();
  readonly agents = new Lives();
  readonly cuts = new Lives();
  /** Agents that an operator has bid for nothing: that lasts as long as their memory. */
  readonly paused = new Lives();
  readonly samples: LogEvent[] = [];
  /** By host. */
  readonly traffic = new Map<string, Sample[]>();
  /** Groups that send, by name. */
  readonly sending = new Map<string, Step[]>();
  readonly free = new Map<string, Step[]>();
  /** By the id of the event that put the measure in force. */
  private readonly counted = new Map<string, Hits[]>();
  private readonly heard = new Set<string>();

  get name(): string {
    return text(this.start?.data, "scenario") || "a live domain";
  }

  add(event: LogEvent): void {
    const data = event.data;
    switch (event.kind) {
      case "run.started":
        this.begin(event);
        break;
      case "run.ended":
        this.ending = event;
        break;
      case "network.sample":
        this.sample(event);
        break;
      case "traffic.changed": {
        const group = text(data, "group");
        const value = data.active === true ? "sends" : "";
        push(this.sending, group, { time: event.time, value, event });
        break;
      }
      case "instance.downloading":
        this.downloads.begin(text(data, "instance"), event);
        break;
      case "instance.started":
        this.downloads.end(text(data, "instance"), event);
        this.instances.begin(text(data, "instance"), event);
        break;
      case "instance.stopped":
      case "instance.replaced":
        this.downloads.end(text(data, "instance"), event);
        this.instances.end(text(data, "instance"), event);
        break;
      case "measure.applied":
        this.measures.begin(text(data, "measure"), event);
        break;
      case "measure.lifted":
        this.measures.end(text(data, "measure"), event);
        break;
      case "lease.expired":
        if (data.what === "measure") this.measures.end(text(data, "name"), event);
        if (data.what === "instance") this.instances.end(text(data, "name"), event);
        break;
      case "measures.counted":
        for (const [name, row] of Object.entries(table(data, "measures"))) {
          const life = this.measures.last(name);
          const figures = row as Data;
          if (life) push(this.counted, life.begun.id, { time: event.time, passed: number(figures, "passed_mb"), held: number(figures, "held_mb"), event });
        }
        break;
      case "chain.opened":
        this.chains.begin(text(data, "chain"), event);
        break;
      case "chain.closed":
        this.chains.end(text(data, "chain"), event);
        break;
      case "goal.adopted":
        this.goals.begin(text(data, "instance_id"), event);
        break;
      case "goal.ended":
        this.goals.end(text(data, "instance_id"), event);
        break;
      case "auction.called":
        this.auctions.begin(text(data, "auction"), event);
        break;
      case "auction.awarded":
      case "auction.failed":
        this.auctions.end(text(data, "auction"), event);
        break;
      case "operator.acted":
        if (data.action === "pause") this.paused.begin(event.agent, event);
        if (data.action === "resume") this.paused.end(event.agent, event);
        break;
      case "agent.started":
      case "agent.restored":
        if (event.kind === "agent.started") this.paused.end(event.agent, event);
        this.agents.begin(event.agent, event);
        this.pop(event);
        break;
      case "agent.left":
        this.agents.end(event.agent, event);
        break;
      case "agent.crashed":
        this.agents.end(text(data, "pop"), event);
        break;
      case "link.changed": {
        const link = text(data, "link");
        if (data.up === true) this.cuts.end(link, event);
        else this.cuts.begin(link, event);
        break;
      }
      case "resources.changed":
        push(this.free, text(data, "pop"), { time: event.time, value: "", event });
        break;
      case "belief.changed":
        if (isAlarm(event)) {
          const key = `${event.agent} ${text(data, "belief")}`;
          if (data.value === true) this.alarms.begin(key, event);
          else this.alarms.end(key, event);
        }
        break;
    }
  }

  /** Of a domain without a scenario, the PoPs are those of which agents tell. */
  private pop(event: LogEvent): void {
    const name = text(event.data, "pop");
    if (!name || this.heard.has(name)) return;
    this.heard.add(name);
    this.pops = [...this.pops, { name, x: 0, y: 0, cores: 0, memory: 0, disk: 0 }];
  }

  private begin(event: LogEvent): void {
    const data = event.data;
    this.start = event;
    this.pops = rows(data, "pops").map((row) => ({
      name: text(row, "name"),
      x: number(row, "x"),
      y: number(row, "y"),
      cores: number(row, "cores"),
      memory: number(row, "memory_gb"),
      disk: number(row, "disk_gb"),
    }));
    for (const pop of this.pops) this.heard.add(pop.name);
    this.links = rows(data, "links").map((row) => ({
      a: text(row, "a"),
      b: text(row, "b"),
      bandwidth: number(row, "bandwidth_mb_s"),
      latency: number(row, "latency_ms"),
      loss: number(row, "loss"),
    }));
    this.hosts = rows(data, "hosts").map((row) => ({
      name: text(row, "name"),
      at: text(row, "at"),
      address: text(row, "address"),
    }));
    this.groups = rows(data, "sources").map((row) => ({
      group: text(row, "group"),
      at: names(row, "at"),
      targets: Array.isArray(row.target) ? names(row, "target") : [text(row, "target")],
      profile: text(row, "profile"),
      malicious: row.malicious === true,
      count: number(row, "count"),
    }));
    this.loops = rows(data, "loops");
  }

  private sample(event: LogEvent): void {
    this.samples.push(event);
    if (!this.start) this.learn(event);
    for (const [host, figures] of Object.entries(table(event.data, "hosts"))) {
      const row = figures as Data;
      push(this.traffic, host, {
        time: event.time,
        legitimate: number(row, "legitimate_mb_s"),
        malicious: number(row, "malicious_mb_s"),
        wanted: number(row, "wanted_mb_s"),
        event,
      });
    }
  }

  /** Of a domain without a scenario, hosts and links are those that are measured. */
  private learn(event: LogEvent): void {
    const known = new Set(this.hosts.map((host) => host.name));
    const fresh = Object.keys(table(event.data, "hosts")).filter((name) => !known.has(name));
    if (fresh.length) this.hosts = [...this.hosts, ...fresh.map((name) => ({ name, at: "", address: "" }))];
    for (const [link, row] of Object.entries(table(event.data, "links"))) {
      const [a, b] = link.split(">");
      const host = this.hosts.find((each) => each.name === b);
      if (host && this.heard.has(a)) host.at = a;
      else if (this.heard.has(a) && this.heard.has(b) && !this.links.some((each) => (each.a === a && each.b === b) || (each.a === b && each.b === a)))
        this.links = [...this.links, { a, b, bandwidth: number(row as Data, "bandwidth_mb_s"), latency: 0, loss: 0 }];
    }
  }

  /** What of the links is measured at `time`: MB/s and the share of the bandwidth, by `a>b`. */
  load(time: number): Map<string, { rate: number; share: number }> {
    const at = lastAt(this.samples, time);
    const found = new Map<string, { rate: number; share: number }>();
    if (at < 0) return found;
    for (const [link, figures] of Object.entries(table(this.samples[at].data, "links"))) {
      const row = figures as Data;
      const rate = number(row, "mb_s");
      const width = number(row, "bandwidth_mb_s");
      found.set(link, { rate, share: width ? rate / width : 0 });
    }
    return found;
  }

  /** What a measure did until `time`, as it was counted, the latest last. */
  hits(life: Life, time: number): readonly Hits[] {
    const found = this.counted.get(life.begun.id) ?? [];
    return found.slice(0, lastAt(found, time) + 1);
  }

  /** What it held back, or passed, in MB/s between the last two counts; 0 once it does nothing. */
  hitRate(life: Life, time: number, of: "held" | "passed"): number {
    const found = this.hits(life, time);
    const last = found.at(-1);
    if (!last) return 0;
    const before = found.at(-2) ?? { time: life.time, held: 0, passed: 0 };
    const span = last.time - before.time;
    // Of a thinned log the counts are further apart.
    return span > 0 && time - last.time <= 2 * Math.max(span, COUNTED_S) ? (last[of] - before[of]) / span : 0;
  }

  /** The groups that send at `time`, with the event that says so. */
  senders(time: number): { group: SourceGroup; event: LogEvent }[] {
    return this.groups.flatMap((group) => {
      const steps = this.sending.get(group.group) ?? [];
      const at = lastAt(steps, time);
      return at >= 0 && steps[at].value ? [{ group, event: steps[at].event }] : [];
    });
  }

  /** Name of the host with an address; the address if there is none. */
  host(address: string): string {
    return this.hosts.find((host) => host.address === address)?.name ?? address;
  }
}

export function push<V>(map: Map<string, V[]>, key: string, value: V): void {
  const values = map.get(key);
  if (values) values.push(value);
  else map.set(key, [value]);
}

export interface Health {
  host: HostInfo;
  state: "well" | "held" | "hurt" | "unknown";
  sentence: string;
  got: number;
  wanted: number;
  attack: number;
  share: number;
  sample?: Sample;
}

const SETTLED_S = 5;

/** How the service of a host is at `time`, from what its users got in the last seconds. */
export function health(world: World, host: HostInfo, time: number): Health {
  const samples = world.traffic.get(host.name) ?? [];
  const at = lastAt(samples, time);
  const nothing = { host, got: 0, wanted: 0, attack: 0, share: 1 };
  if (at < 0) return { ...nothing, state: "unknown", sentence: "No traffic was measured yet." };
  let got = 0;
  let wanted = 0;
  let count = 0;
  for (let i = at; i >= 0 && (i === at || samples[i].time > time - SETTLED_S); i--) {
    got += samples[i].legitimate;
    wanted += samples[i].wanted;
    count++;
  }
  const now = samples[at];
  const share = wanted > 0 ? Math.min(1, got / wanted) : 1;
  const figures = { host, got: got / count, wanted: wanted / count, attack: now.malicious, share, sample: now };
  const attacked = world
    .senders(time)
    .some(({ group }) => group.malicious && (group.targets.includes(host.name) || group.targets.includes(host.address)));
  const guarded = world.measures.at(time).some((life) => text(life.begun.data, "target") === host.address);
  if (wanted > 0 && share < 0.95)
    return { ...figures, state: "hurt", sentence: attacked ? "Users get less than they ask for, under attack." : "Users get less than they ask for." };
  if (attacked || now.malicious > 0)
    return {
      ...figures,
      state: "held",
      sentence: now.malicious > 0.01 * (figures.wanted || 1) ? "An attack arrives; users are served." : "An attack is held off; users are served.",
    };
  return { ...figures, state: "well", sentence: guarded ? "Users are served; filters still stand." : "Users are served." };
}
