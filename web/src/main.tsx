/** Starts the page: from the log inside it, or from a server that sends events as they come. */

import { createRoot, type Root } from "react-dom/client";
import { ask } from "./server";
import type { App, Session } from "./state";
import { Model } from "./state";
import type { LogEvent } from "./store";
import { eventOf, type Fact, fold } from "./why";
import { AppFrame } from "./ui/app";
import { setStory, type Story } from "./ui/whole";
import { Login } from "./ui/login";
import "./style.css";

const model = new Model();
const root: Root = createRoot(document.getElementById("root") as HTMLElement);

function show(session: Session, connection: App["connection"]): void {
  root.render(<AppFrame model={model} session={session} connection={connection} />);
}

/** The log that stands in the page: base64 of gzip of one JSON object a line. */
async function inlined(element: HTMLElement): Promise<void> {
  const octets = Uint8Array.from(atob((element.textContent ?? "").trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([octets]).stream().pipeThrough(new DecompressionStream("gzip"));
  const lines = (await new Response(stream).text()).split("\n");
  model.store.addAll(lines.filter(Boolean).map((line) => JSON.parse(line) as LogEvent));
  show({ mode: "report", role: "viewer", name: "", actions: [], thinned: element.dataset.thinned || undefined }, "none");
}

/** Log in with the word that the address brings, which works once. */
async function loggedIn(): Promise<void> {
  const code = /^#login=([\w-]+)$/.exec(location.hash)?.[1];
  if (!code) return;
  history.replaceState(null, "", location.pathname);
  await ask("api/login", { token: code });
}

async function served(): Promise<void> {
  await loggedIn();
  const { ok, status, said } = await ask<Session>("api/session");
  if (status === 401) {
    root.render(<Login done={() => void served()} />);
    return;
  }
  if (!ok) {
    window.setTimeout(() => location.reload(), 2000);
    return;
  }
  const session = said as Session;
  let queue: LogEvent[] = [];
  let drawn = 0;
  const drain = () => {
    drawn = 0;
    const taken = queue;
    queue = [];
    model.store.addAll(taken);
  };
  const source = new EventSource("api/stream");
  source.onopen = () => show(session, "connected");
  source.onmessage = (message) => {
    for (const event of JSON.parse(message.data as string) as LogEvent[]) queue.push(event);
    // All that came in a moment is drawn once.
    if (!drawn) drawn = window.setTimeout(drain, 60);
  };
  // The server does not know the last event that came: it is another log, so begin again.
  source.addEventListener("reset", () => location.reload());
  source.onerror = () => {
    show(session, "reconnecting");
    if (source.readyState === EventSource.CLOSED) {
      source.close();
      window.setTimeout(() => location.reload(), 2000);
    }
  };
  show(session, "reconnecting");
}

const log = document.getElementById("log");
// For tests and benchmarks, which compare the model with the log.
Object.assign(window, {
  phalanx: {
    model,
    explain(fact: Fact) {
      const event = eventOf(model.store, model.world, model.sources, fact);
      const chain = event ? model.store.chain(event) : [];
      return { chain: chain.map((each) => each.id), lines: fold(chain).length };
    },
  },
});
const story = document.getElementById("story");
if (story) setStory(JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(story.textContent ?? ""), (c) => c.charCodeAt(0)))) as Story);
void (log ? inlined(log) : served());
