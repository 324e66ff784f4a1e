/** Words for people: predicates in plain English, figures with units, moments of a run. */

/** By predicate: `{0}` is its first argument; a part in `[ ]` is left out when that is empty. */
const PHRASES: Record<string, string> = {
  overUsage: "overload of {0}",
  anomalousUsage: "malicious traffic on {0}",
  connectionFlood: "a flood of connections on {0}",
  monitored: "watch over {0}",
  linkRateLimited: "a limit on link {0}",
  ipRateLimited: "a limit on traffic to {0}",
  flowRateLimited: "a block of {0} towards {1}",
  linkIp: "traffic to {1} on {0}",
  anomalous: "anomalous traffic to {0}",
  flowRecord: "a look at the flows to {0}",
  threat: "a malicious flow from {0} to {1}",
  spoofed: "forged sources that flood {0}",
  handshakesProxied: "a proxy for TCP handshakes with {0}",
  splitTrafficLink: "a split of the traffic on {0}",
  splitTrafficTowardsIp: "a split of the traffic to {0}",
  quiet: "word that {0} is idle",
  underAttack: "an attack on {0}",
  serviceBreached: "that users of {0} get less than usual",
  entryScreened: "screening of traffic to {0}[ that enters at {1}]",
  linkScreened: "screening of what passes {0}",
  attackFiltered: "a filter for {0}[ at {1}] against {2}",
  serviceWatched: "watch over the service at {1}",
  serviceTrouble: "{1} of {0}[ from {2}]",
  replicated: "a replica of {0} (share {1} of {2})",
  scaledUp: "more processors for {0} (step {1})",
  placedNear: "a replica of {0} near {1}",
  rerouted: "another way to {0} from {1}",
  managed: "the care of {1} in {0}",
  entityTrouble: "trouble of {1}: {2}",
  attackLoad: "load from attackers on {1}",
  claimHeld: "leave to {2} {1}",
  signallingWatched: "watch over signalling to {0}[ from {1}]",
};

const PREDICATE = /([¬?]?)\b([a-z][A-Za-z]*)\(([^()]*)\)/g;
const SIGNS: Record<string, string> = { "¬": "an end of ", "?": "word on ", "": "" };

/** The phrase for one predicate; undefined if `name` looks like none. */
function phrase(name: string, argument: string): string | undefined {
  const known = Object.hasOwn(PHRASES, name) ? PHRASES[name] : undefined;
  if (known === undefined) {
    if (!/[A-Z]/.test(name)) return undefined; // such as proc(5)
    const spaced = name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
    return argument ? `${spaced} of ${argument}` : spaced;
  }
  const parts = argument.split(", ").map((part) => part.replace(/^(\d+ sources?) [0-9a-f]{6}$/, "$1"));
  const fill = (template: string) =>
    template.replace(/\{(\d)\}/g, (_, at) => parts[Number(at)] ?? "");
  return fill(
    known.replace(/\[([^\]]*\{(\d)\}[^\]]*)\]/g, (_, part, at) => (parts[Number(at)] ? part : "")),
  );
}

/** `said` with predicates in plain words, and links drawn as arrows. */
export function plain(said: string): string {
  let words = said;
  for (let depth = 0; depth < 4; depth++) {
    const before = words;
    words = words.replace(PREDICATE, (whole, sign: string, name: string, argument: string) => {
      const found = phrase(name, argument);
      return found === undefined ? whole : `${SIGNS[sign]}${found}`;
    });
    if (words === before) break;
  }
  return words
    .replace(/ \(1 of the traffic\)/g, "")
    .replace(/\((0\.\d+) of the traffic\)/g, (_, share: string) => `(${percent(Number(share))} of the traffic)`)
    .replace(/([\w.-]+)>([\w.-]+)/g, "$1 → $2");
}

/** Whether `said` has a symbol that `plain` puts into words. */
export const hasSymbol = (said: string): boolean => plain(said) !== said;

/** `said` as a sentence of its own: a capital letter in front, unless it is a name. */
export const sentence = (said: string): string =>
  /^[a-z]+ /.test(said) ? said.charAt(0).toUpperCase() + said.slice(1) : said;

export function figure(value: number, digits = 3): string {
  if (!Number.isFinite(value)) return "?";
  const size = Math.abs(value);
  if (size !== 0 && size < 1e-4) return value.toExponential(1);
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(digits)));
}

export const percent = (share: number): string => {
  const whole = 100 * share;
  return `${whole > 99 && whole < 99.95 ? whole.toFixed(1) : Math.round(whole)} %`;
};

/** A moment of the run, such as `22.7 s` or `8:02.7`. */
export function clock(seconds: number, exact = false): string {
  const digits = exact ? 3 : 1;
  if (seconds < 120) return `${seconds.toFixed(digits)} s`;
  const whole = Number(seconds.toFixed(digits));
  const minutes = Math.floor(whole / 60);
  const rest = (whole - 60 * minutes).toFixed(digits).padStart(digits + 3, "0");
  if (minutes < 60) return `${minutes}:${rest}`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
}

export const counted = (count: number, noun: string): string =>
  `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

export function listed(items: readonly string[], most = 4): string {
  const shown = items.slice(0, most);
  if (items.length > most) return `${shown.join(", ")} and ${items.length - most} more`;
  return shown.length < 2 ? shown.join("") : `${shown.slice(0, -1).join(", ")} and ${shown.at(-1)}`;
}

/** The name of a figure of the log, with its unit. */
export const label = (name: string): string =>
  name
    .replace(/^syn_s$/, "SYN/s")
    .replace(/_mb_s$/, " MB/s")
    .replace(/_mb$/, " MB")
    .replace(/_ms$/, " ms")
    .replace(/(requests|packets|connections|flows|usual|new)_s$/, "$1/s")
    .replaceAll("_", " ");

/** A value of an event's data, for a table. */
export function written(value: unknown): string {
  if (value === null || value === undefined) return "–";
  if (typeof value === "number") return figure(value, 4);
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.map(written).join(", ");
  if (typeof value === "object")
    return Object.entries(value)
      .map(([key, item]) => `${label(key)} ${written(item)}`)
      .join(", ");
  return String(value);
}
