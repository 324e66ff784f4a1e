/** What the page shows: kept in the address, so that a copied URL opens the same instant. */

import { createContext, useContext, useMemo, useSyncExternalStore } from "react";
import { Auctions } from "./auctions";
import { EventStore, type LogEvent } from "./store";
import { Trust } from "./trust";
import { Sources } from "./why";
import { World } from "./world";

export const VIEWS = ["now", "map", "auctions", "trust", "do"] as const;
export type ViewName = (typeof VIEWS)[number];

export interface Place {
  view: ViewName;
  /** The instant; undefined: the end of the log, which in a live run is now. */
  time?: number;
  /** The part of the run that charts and slider show. */
  from?: number;
  to?: number;
  /** Id of the event that the Why panel is about, or the address of a source. */
  selected?: string;
  /** Id of the call of the auction that is shown. */
  auction?: string;
}

const KEYS: [keyof Place, string][] = [["time", "t"], ["from", "from"], ["to", "to"], ["selected", "why"], ["auction", "auction"]];

export function readPlace(hash: string): Place {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const view = VIEWS.find((name) => name === given.get("view")) ?? "now";
  const place: Record<string, unknown> = { view };
  for (const [key, name] of KEYS) {
    const value = given.get(name);
    if (value === null) continue;
    const numeric = key === "time" || key === "from" || key === "to";
    if (!numeric) place[key] = value;
    else if (Number.isFinite(Number(value))) place[key] = Number(value);
  }
  return place as unknown as Place;
}

export function writePlace(place: Place): string {
  const given = new URLSearchParams({ view: place.view });
  for (const [key, name] of KEYS) {
    const value = place[key];
    if (value !== undefined) given.set(name, typeof value === "number" ? String(Number(value.toFixed(3))) : value);
  }
  return `#${given}`;
}

/** What the server says of the session; of a page with the log inside, there is no server. */
export interface Session {
  mode: "report" | "recorded" | "live";
  role: "viewer" | "operator";
  name: string;
  /** Secret of the session that goes with each action, against forged requests. */
  csrf?: string;
  /** What may be done, by name. */
  actions: string[];
  /** Of what can be asked what would come of it. */
  previews?: string[];
  /** Words on what was left out of the log. */
  thinned?: string;
}

/** The model of one log. */
export class Model {
  readonly store = new EventStore();
  readonly world = this.store.attach(new World());
  readonly auctions = this.store.attach(new Auctions());
  readonly trust = this.store.attach(new Trust());
  readonly sources = this.store.attach(new Sources());
}

export interface App {
  model: Model;
  session: Session;
  place: Place;
  /** The instant that is shown, in seconds. */
  time: number;
  /** The part of the run that is shown, in seconds. */
  from: number;
  to: number;
  symbols: boolean;
  go(change: Partial<Place>, keep?: boolean): void;
  why(event: LogEvent | string | undefined): void;
  connection: "none" | "connected" | "reconnecting";
}

export const AppContext = createContext<App | null>(null);

export function useApp(): App {
  const app = useContext(AppContext);
  if (!app) throw new Error("no app");
  return app;
}

/** Have a component follow the log as it grows. */
export function useVersion(model: Model): number {
  return useSyncExternalStore(model.store.subscribe, () => model.store.version);
}

/** A value that is made anew when the log or one of `inputs` has changed. */
export function useDerived<V>(make: () => V, model: Model, inputs: unknown[]): V {
  const version = useVersion(model);
  return useMemo(make, [model, version, ...inputs]);
}
