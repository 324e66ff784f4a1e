/**
 * The log of causes in the page: events in the order of the log, and the ways from each to its
 * cause and its effects. The rules are those of `phalanx.store.causes.CauseIndex`: of two events
 * of one id the first counts, and a cause counts only if it stands before its effect.
 */

export type Data = Record<string, unknown>;

export interface LogEvent {
  id: string;
  /** Seconds since the run began. */
  time: number;
  agent: string;
  kind: string;
  cause: string | null;
  data: Data;
  /** What it says in one line, from `phalanx.reporting.event_text`. */
  text: string;
}

const NONE = -1;
/** Pause between two drawings of what came. */
const BETWEEN_MS = 250;

/** Numbers that grow, without an object for each. */
class Column<A extends Int32Array | Float64Array> {
  length = 0;
  constructor(
    public values: A,
    private readonly make: (size: number) => A,
  ) {}

  push(value: number): void {
    if (this.length === this.values.length) {
      const wider = this.make(2 * this.length);
      wider.set(this.values);
      this.values = wider;
    }
    this.values[this.length++] = value;
  }
}

const ints = () => new Column(new Int32Array(1024), (size) => new Int32Array(size));
const floats = () => new Column(new Float64Array(1024), (size) => new Float64Array(size));

export interface View {
  /** Take the next event of the log, which stands at `place`. */
  add(event: LogEvent, place: number): void;
}

export class EventStore {
  readonly events: LogEvent[] = [];
  private readonly places = new Map<string, number>();
  private readonly kinds = new Map<string, LogEvent[]>();
  private readonly first = ints();
  private readonly last = ints();
  private readonly next = ints();
  /** The latest time up to each place: never falls, so that it can be searched. */
  private readonly reached = floats();
  private readonly views: View[] = [];
  private readonly listeners = new Set<() => void>();
  private telling = 0;
  private told = -Infinity;
  version = 0;

  /** Have `view` told of all events, also of those that are here already. */
  attach<V extends View>(view: V): V {
    this.events.forEach((event, place) => view.add(event, place));
    this.views.push(view);
    return view;
  }

  add(event: LogEvent): void {
    const place = this.events.length;
    this.events.push(event);
    if (!this.places.has(event.id)) this.places.set(event.id, place);
    const of = this.kinds.get(event.kind);
    if (of) of.push(event);
    else this.kinds.set(event.kind, [event]);
    this.first.push(NONE);
    this.last.push(NONE);
    this.next.push(NONE);
    this.reached.push(Math.max(event.time, this.endTime));
    const cause = this.placeOfCause(event);
    if (cause !== NONE) {
      const before = this.last.values[cause];
      if (before === NONE) this.first.values[cause] = place;
      else this.next.values[before] = place;
      this.last.values[cause] = place;
    }
    for (const view of this.views) view.add(event, place);
  }

  addAll(events: Iterable<LogEvent>): void {
    for (const event of events) this.add(event);
    this.changed();
  }

  /** Tell who listens, at once after a pause, and a few times a second while events pour in. */
  private changed(): void {
    if (this.telling) return;
    const tell = () => {
      this.telling = 0;
      this.told = performance.now();
      this.version++;
      for (const listener of this.listeners) listener();
    };
    const wait = this.told + BETWEEN_MS - performance.now();
    if (wait <= 0) tell();
    else this.telling = window.setTimeout(tell, wait);
  }

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  get endTime(): number {
    const { length, values } = this.reached;
    return length > 1 ? values[length - 2] : length ? values[0] : 0;
  }

  /** When the log ends so far, in seconds. */
  get end(): number {
    return this.reached.length ? this.reached.values[this.reached.length - 1] : 0;
  }

  get(id: string | null | undefined): LogEvent | undefined {
    const place = id == null ? undefined : this.places.get(id);
    return place === undefined ? undefined : this.events[place];
  }

  place(event: LogEvent): number {
    return this.places.get(event.id) ?? NONE;
  }

  of(kind: string): readonly LogEvent[] {
    return this.kinds.get(kind) ?? [];
  }

  count(): [string, number][] {
    return [...this.kinds].map(([kind, events]) => [kind, events.length]);
  }

  private placeOfCause(event: LogEvent): number {
    if (event.cause === null) return NONE;
    const place = this.places.get(event.cause);
    return place !== undefined && place < this.place(event) ? place : NONE;
  }

  cause(event: LogEvent): LogEvent | undefined {
    const place = this.placeOfCause(event);
    return place === NONE ? undefined : this.events[place];
  }

  /** The event and what led to it, the nearest cause first, the root last. */
  chain(event: LogEvent): LogEvent[] {
    const chain = [event];
    for (let up = this.cause(event); up; up = this.cause(up)) chain.push(up);
    return chain;
  }

  /** What the event caused directly, in the order of the log, `most` at the most. */
  effects(event: LogEvent, most = Infinity): LogEvent[] {
    const found: LogEvent[] = [];
    const own = this.place(event);
    let at = own === NONE ? NONE : this.first.values[own];
    for (; at !== NONE && found.length < most; at = this.next.values[at])
      found.push(this.events[at]);
    return found;
  }

  /** How many events of the log had happened at `time`. */
  until(time: number): number {
    let low = 0;
    let high = this.reached.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.reached.values[middle] <= time) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

// -- fields of data, whatever stands there ---------------------------------------------------

export const text = (data: Data | undefined, key: string): string => {
  const value = data?.[key];
  return typeof value === "string" ? value : value == null ? "" : String(value);
};
export const number = (data: Data | undefined, key: string, otherwise = 0): number => {
  const value = data?.[key];
  return typeof value === "number" && Number.isFinite(value) ? value : otherwise;
};
export const table = (data: Data | undefined, key: string): Record<string, unknown> => {
  const value = data?.[key];
  return value && typeof value === "object" && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : {};
};
export const rows = (data: Data | undefined, key: string): Data[] => {
  const value = data?.[key];
  return Array.isArray(value)
    ? value.filter((row): row is Data => !!row && typeof row === "object" && !Array.isArray(row))
    : [];
};
export const names = (data: Data | undefined, key: string): string[] => {
  const value = data?.[key];
  return Array.isArray(value) ? value.map(String) : [];
};

/** The last of `events`, which are in the order of time, that is not later than `time`. */
export function lastAt<E extends { time: number }>(events: readonly E[], time: number): number {
  let low = 0;
  let high = events.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (events[middle].time <= time) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** Sorts `pop2` before `pop10`. */
export const natural = new Intl.Collator("en", { numeric: true }).compare;
