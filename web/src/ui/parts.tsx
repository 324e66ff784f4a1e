/** Small parts of which all views are made. */

import { type ReactNode, useEffect, useRef, useState } from "react";
import { type App, useApp } from "../state";
import type { LogEvent } from "../store";
import { clock, hasSymbol, plain, sentence } from "../words";

/** Words of the log: predicates in plain words, their symbols on demand. */
export function Say({ text, capital = false }: { text: string; capital?: boolean }) {
  const { symbols } = useApp();
  const words = symbols ? text : plain(text);
  const shown = capital ? sentence(words) : words;
  return (
    <bdi className="say" title={hasSymbol(text) ? text : undefined}>
      {shown.length > 600 ? `${shown.slice(0, 600)}…` : shown}
    </bdi>
  );
}

/** A fact: one click or Enter opens the panel that says why it is so. */
export function Fact({ of, children, className = "", label }: { of: LogEvent | string | undefined; children: ReactNode; className?: string; label?: string }) {
  const { why, place } = useApp();
  const id = typeof of === "string" ? of : of?.id;
  if (!id) return <span className={className}>{children}</span>;
  return (
    <button
      type="button"
      className={`fact ${className}`}
      data-fact={id}
      aria-label={label}
      aria-pressed={place.selected === id}
      onClick={(event) => {
        event.stopPropagation();
        why(id);
      }}
    >
      {children}
    </button>
  );
}

/** The same for a shape in a drawing, whose `title` is its name for screen readers. */
export function shapeFact(app: App, of: LogEvent | string | undefined, label: string) {
  const id = typeof of === "string" ? of : of?.id;
  if (!id) return { role: "img", "aria-label": label };
  return {
    role: "button",
    tabIndex: 0,
    "data-fact": id,
    className: `shape-fact${app.place.selected === id ? " selected" : ""}`,
    onClick: (event: { stopPropagation(): void }) => {
      event.stopPropagation();
      app.why(id);
    },
    onKeyDown: (event: { key: string; preventDefault(): void }) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      app.why(id);
    },
  };
}

export function Section({ title, note, children, className = "", actions }: { title: string; note?: ReactNode; children: ReactNode; className?: string; actions?: ReactNode }) {
  return (
    <section className={`section ${className}`} aria-label={title}>
      <header>
        <h2>{title}</h2>
        {note !== undefined && <span className="note">{note}</span>}
        {actions}
      </header>
      {children}
    </section>
  );
}

/** The moment of an event; a click moves the page there. */
export function At({ time, exact = false }: { time: number; exact?: boolean }) {
  const { go } = useApp();
  return (
    <button type="button" className="at" title="Show this instant" onClick={() => go({ time })}>
      {clock(time, exact)}
    </button>
  );
}

export function Empty({ children }: { children: ReactNode }) {
  return <p className="empty">{children}</p>;
}

/** The width that an element has, as it changes. */
export function useWidth<E extends Element>(): [React.RefObject<E | null>, number] {
  const ref = useRef<E>(null);
  const [width, setWidth] = useState(640);
  useEffect(() => {
    const element = ref.current;
    if (!element) return;
    const observer = new ResizeObserver(([entry]) => setWidth(Math.max(200, Math.round(entry.contentRect.width))));
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  return [ref, width];
}

const PATHS: Record<string, string> = {
  now: "M3 12h4l2.5-7 5 14L17 12h4",
  map: "M6 6m-2.5 0a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0-5 0M18 8m-2.5 0a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0-5 0M10 19m-2.5 0a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0-5 0M8.3 6.6l7.2 1M7 8.4l2.2 8.2M16.6 10l-5 7",
  auctions: "M4 20h9M12 4l7 7M9 7l7 7M14 5.5L8 11.5M18.5 10L12.5 16M10.5 9.5L4 16",
  trust: "M12 3l7.5 3v5.5c0 4.5-3 8-7.5 9.5c-4.5-1.5-7.5-5-7.5-9.5V6zM8.5 12l2.5 2.5 4.5-5",
  do: "M5 12h9M11 7l5 5-5 5M19 5v14",
  why: "M9 9a3 3 0 1 1 4.2 2.75c-.9.4-1.2 1-1.2 2.25M12 17.5v.01",
  play: "M7 5l12 7-12 7z",
  pause: "M8 5v14M16 5v14",
  close: "M6 6l12 12M18 6L6 18",
  sun: "M12 8a4 4 0 1 0 0 8a4 4 0 1 0 0-8M12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6L19 19M5 19l1.4-1.4M17.6 6.4L19 5",
  search: "M11 4a7 7 0 1 0 0 14a7 7 0 1 0 0-14M16.2 16.2L21 21",
  link: "M10 14a4 4 0 0 0 6 .5l3-3a4 4 0 0 0-5.7-5.7L12 7M14 10a4 4 0 0 0-6-.5l-3 3a4 4 0 0 0 5.7 5.7L12 17",
};

export function Icon({ name }: { name: string }) {
  return (
    <svg className="icon" viewBox="0 0 24 24" aria-hidden="true" fill="none" stroke="currentColor" strokeWidth="1.8" strokeLinecap="round" strokeLinejoin="round">
      <path d={PATHS[name] ?? ""} />
    </svg>
  );
}
