/** The frame of the page: header, views, the Why panel, time. */

import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import { type App, AppContext, type Model, type Place, readPlace, type Session, useVersion, type ViewName, writePlace } from "../state";
import type { LogEvent } from "../store";
import { aboutAddress } from "../why";
import { clock, plain } from "../words";
import { AuctionsView } from "./auctions";
import { DoView, PreviewDialog } from "./do";
import { MapView } from "./map";
import { NowView } from "./now";
import { Icon } from "./parts";
import { TimeBar } from "./time";
import { TrustView } from "./trust";
import { WhyPanel } from "./why";

const VIEW_WORDS: [ViewName, string][] = [["now", "Now"], ["map", "Map"], ["auctions", "Auctions"], ["trust", "Trust"], ["do", "Do"]];

export function AppFrame({ model, session, connection }: { model: Model; session: Session; connection: App["connection"] }) {
  useVersion(model);
  const [place, setPlace] = useState<Place>(() => readPlace(location.hash));
  const [symbols, setSymbols] = useState(false);
  const current = useRef(place);
  current.current = place;
  const pending = useRef(0);

  const go = useCallback((change: Partial<Place>, keep = false) => {
    const next = { ...current.current, ...change };
    current.current = next;
    setPlace(next);
    // Browsers refuse more than some changes of the address a second.
    window.clearTimeout(pending.current);
    if (keep) pending.current = window.setTimeout(() => history.replaceState(null, "", writePlace(current.current)), 150);
    else history.pushState(null, "", writePlace(next));
  }, []);
  const why = useCallback((event: LogEvent | string | undefined) => go({ selected: typeof event === "object" ? event.id : event }), [go]);

  useEffect(() => {
    const back = () => {
      current.current = readPlace(location.hash);
      setPlace(current.current);
    };
    window.addEventListener("popstate", back);
    window.addEventListener("hashchange", back);
    return () => {
      window.removeEventListener("popstate", back);
      window.removeEventListener("hashchange", back);
    };
  }, []);
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") {
        why(undefined);
        return;
      }
      if (/^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName)) return;
      if (event.key === "/") {
        event.preventDefault();
        document.querySelector<HTMLInputElement>("#search")?.focus();
      }
      if (event.key === " " && target.tagName !== "BUTTON" && target.getAttribute("role") !== "button") {
        event.preventDefault();
        document.querySelector<HTMLButtonElement>("[data-play]")?.click();
      }
      const view = VIEW_WORDS[Number(event.key) - 1];
      if (view) go({ view: view[0] });
    };
    window.addEventListener("keydown", press);
    return () => window.removeEventListener("keydown", press);
  }, [go, why]);

  const whole = Math.max(model.store.end, model.world.ending ? 0 : 1, 1);
  const app = useMemo<App>(
    () => ({
      model,
      session,
      connection,
      place,
      symbols,
      time: Math.min(place.time ?? model.store.end, Math.max(model.store.end, 0)),
      from: place.from ?? 0,
      to: place.to ?? whole,
      go,
      why,
    }),
    [model, session, connection, place, symbols, go, why, whole, model.store.version],
  );
  useEffect(() => {
    document.title = `${model.world.name} · Phalanx`;
  }, [model.world.name]);

  return (
    <AppContext.Provider value={app}>
      <a className="skip" href="#view" onClick={(event) => { event.preventDefault(); document.getElementById("view")?.focus(); }}>
        Skip to the view
      </a>
      <div className={`frame${place.selected ? " with-why" : ""}`}>
        <Header app={app} onSymbols={() => setSymbols(!symbols)} />
        <nav className="rail" aria-label="Views">
          {VIEW_WORDS.map(([name, words], at) => (
            <button key={name} type="button" aria-current={place.view === name ? "page" : undefined} title={`${words} (${at + 1})`} onClick={() => go({ view: name })}>
              <Icon name={name} />
              <span>{words}</span>
            </button>
          ))}
        </nav>
        <main id="view" tabIndex={-1} data-view={place.view} data-time={app.time.toFixed(3)}>
          {session.thinned && <p className="note warn">{session.thinned}</p>}
          {place.view === "now" && <NowView />}
          {place.view === "map" && <MapView />}
          {place.view === "auctions" && <AuctionsView />}
          {place.view === "trust" && <TrustView />}
          {place.view === "do" && <DoView />}
        </main>
        <WhyPanel />
        <TimeBar />
      </div>
      <PreviewDialog />
    </AppContext.Provider>
  );
}

const MODES = { report: "report", recorded: "recorded run", live: "live" };

function Header({ app, onSymbols }: { app: App; onSymbols: () => void }) {
  const { model, session, connection } = app;
  const [theme, setTheme] = useState(() => document.documentElement.dataset.theme ?? "");
  const ended = model.world.ending !== undefined;
  const mode = connection === "reconnecting" ? "reconnecting…" : session.mode === "live" && ended ? "has ended" : MODES[session.mode];
  return (
    <header className="top">
      <span className="brand">
        <svg viewBox="0 0 24 24" aria-hidden="true">
          <path d="M12 1.5l9 3.5v7c0 5.5-3.75 9-9 10.5C6.75 21 3 17.5 3 12V5z" />
          <path className="lambda" d="M12 7l-4.5 10M12 7l4.5 10" />
        </svg>
        Phalanx
      </span>
      <span className="run-name">
        <bdi title={model.world.name}>{model.world.name}</bdi>
      </span>
      <span className={`mode ${connection === "reconnecting" ? "lost" : session.mode}`} role="status">
        {mode}
      </span>
      <Search app={app} />
      <button type="button" className="icon-button wide" aria-pressed={app.symbols} title="Show goals and predicates as symbols" onClick={onSymbols}>
        <span className="mono">¬φ</span> <span>Symbols</span>
      </button>
      <button
        type="button"
        className="icon-button"
        aria-label="Dark or light"
        title="Dark or light"
        onClick={() => {
          const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
          const next = dark ? "light" : "dark";
          document.documentElement.dataset.theme = next;
          setTheme(next);
        }}
      >
        <Icon name="sun" />
      </button>
      {session.mode !== "report" && (
        <span className="who" title={`logged in as ${session.name}`}>
          {session.role}
        </span>
      )}
    </header>
  );
}

const MOST_FOUND = 8;

/** Finds an address, an agent, a goal or an event; Enter asks why. */
function Search({ app }: { app: App }) {
  const [wanted, setWanted] = useState("");
  const found = useMemo(() => (wanted.trim().length > 1 ? search(app, wanted.trim()) : []), [app, wanted]);
  const choose = (id: string) => {
    app.why(id);
    setWanted("");
  };
  return (
    <search className="search">
      <Icon name="search" />
      <input
        id="search"
        type="search"
        placeholder="Why… an address, a PoP, a goal"
        aria-label="Ask why: an address, an agent, a goal or the id of an event"
        value={wanted}
        onChange={(event) => setWanted(event.target.value)}
        onKeyDown={(event) => {
          if (event.key === "Enter" && found.length) choose(found[0].id);
          if (event.key === "Escape") setWanted("");
        }}
      />
      {wanted.trim().length > 1 && (
        <ul className="found" aria-label="Found">
          {found.map((each) => (
            <li key={each.id}>
              <button type="button" onClick={() => choose(each.id)}>
                <span className="sub">{each.when}</span> <bdi>{each.words}</bdi>
              </button>
            </li>
          ))}
          {!found.length && <li className="empty">nothing in this log</li>}
        </ul>
      )}
    </search>
  );
}

function search(app: App, wanted: string): { id: string; when: string; words: string }[] {
  const { model, time } = app;
  const found: { id: string; when: string; words: string }[] = [];
  const event = model.store.get(wanted);
  if (event) found.push({ id: event.id, when: clock(event.time), words: plain(event.text) });
  for (const source of model.sources.all()) {
    if (found.length >= 4) break;
    if (source === wanted || source.startsWith(wanted)) found.push({ id: source, when: "source", words: aboutAddress(model.world, model.sources, source, time).title });
  }
  const low = wanted.toLowerCase();
  const { events } = model.store;
  const least = Math.max(0, model.store.until(time) - 200_000);
  for (let at = model.store.until(time) - 1; at >= least && found.length < MOST_FOUND; at--) {
    const each = events[at];
    if (each.kind === "network.sample" || each.kind === "measures.counted" || each.kind === "traffic.changed") continue;
    if (each.text.toLowerCase().includes(low) || each.agent === wanted) found.push({ id: each.id, when: clock(each.time), words: `${each.agent} ${plain(each.text)}` });
  }
  return found;
}
