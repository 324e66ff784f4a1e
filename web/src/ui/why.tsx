/** The Why panel: from any fact back through its causes, and on to what followed. */

import { useEffect, useRef, useState } from "react";
import { candidates, whyNot } from "../auctions";
import { useApp, useDerived } from "../state";
import { type Data, type LogEvent, number, table, text } from "../store";
import { aboutAddress, evidence, firstObservation, fold, isObservation, type Line, MOST_LINES, role } from "../why";
import { clock, counted, figure, written } from "../words";
import { At, Empty, Fact, Icon, Say } from "./parts";

const ROLE_WORDS: Record<string, string> = {
  saw: "saw",
  happened: "happened",
  believed: "believed",
  decided: "decided",
  did: "did",
  wanted: "wanted",
  offered: "offered",
  planned: "planned",
  begin: "the run",
};

export function WhyPanel() {
  const app = useApp();
  const panel = useRef<HTMLElement>(null);
  const selected = app.place.selected;
  useEffect(() => {
    if (selected) panel.current?.focus({ preventScroll: true });
  }, [selected]);
  if (!selected) return null;
  const event = app.model.store.get(selected);
  return (
    <aside className="why" aria-label="Why" tabIndex={-1} ref={panel}>
      <header>
        <h2>
          <Icon name="why" /> Why?
        </h2>
        <CopyLink />
        <button type="button" className="icon-button" aria-label="Close the panel" onClick={() => app.why(undefined)}>
          <Icon name="close" />
        </button>
      </header>
      <div className="why-body">{event ? <AboutEvent key={event.id} event={event} /> : <AboutSource key={selected} address={selected} />}</div>
    </aside>
  );
}

function CopyLink() {
  const [copied, setCopied] = useState(false);
  return (
    <button
      type="button"
      className="icon-button wide"
      title="A colleague who opens this address sees the same instant and the same panel"
      onClick={() => {
        void navigator.clipboard?.writeText(location.href).then(() => setCopied(true));
        setTimeout(() => setCopied(false), 1500);
      }}
    >
      <Icon name="link" /> <span>{copied ? "Copied" : "Copy link"}</span>
    </button>
  );
}

function AboutSource({ address }: { address: string }) {
  const { model, time } = useApp();
  const found = useDerived(() => aboutAddress(model.world, model.sources, address, time), model, [address, time]);
  const known = model.sources.blocks.has(address) || model.sources.looks.has(address);
  if (!known && !/^[\d.:a-f]+$/i.test(address)) return <Empty>The log holds no such fact.</Empty>;
  return (
    <>
      <h3 className="why-title">{found.title}</h3>
      {found.words.map((words) => (
        <p key={words}>
          <Say text={words} />
        </p>
      ))}
      {found.event && <Chain event={found.event} />}
    </>
  );
}

const TABS = ["Because", "Then", "Record"] as const;

function AboutEvent({ event }: { event: LogEvent }) {
  const { model } = useApp();
  const [tab, setTab] = useState<(typeof TABS)[number]>("Because");
  const auction = model.auctions.with(event);
  return (
    <>
      <p className="why-when">
        <At time={event.time} exact /> <b>{event.agent}</b>
      </p>
      <h3 className="why-title">
        <Say text={event.text} capital />
      </h3>
      <div className="tabs" role="tablist" aria-label="About this fact">
        {TABS.map((name) => (
          <button key={name} type="button" role="tab" id={`tab-${name}`} aria-selected={tab === name} aria-controls="why-tab" onClick={() => setTab(name)}>
            {name}
          </button>
        ))}
      </div>
      <div role="tabpanel" id="why-tab" aria-labelledby={`tab-${tab}`}>
        {tab === "Because" && event.kind === "measures.counted" && <Counted event={event} />}
        {tab === "Because" && <Chain event={event} />}
        {tab === "Because" && auction && <WhyNot event={event} />}
        {tab === "Then" && <Effects event={event} />}
        {tab === "Record" && <Record event={event} />}
      </div>
    </>
  );
}

/** What was counted of each measure; why a measure is in force is a click further. */
function Counted({ event }: { event: LogEvent }) {
  const { world } = useApp().model;
  return (
    <table className="figures">
      <thead>
        <tr>
          <th scope="col">measure</th>
          <th scope="col">MB held back</th>
          <th scope="col">MB passed</th>
        </tr>
      </thead>
      <tbody>
        {Object.entries(table(event.data, "measures")).map(([name, row]) => {
          const begun = world.measures.last(name)?.begun;
          return (
            <tr key={name}>
              <td>
                <Fact of={begun}>
                  <Say text={begun ? text(begun.data, "effect") : name} capital />
                </Fact>
              </td>
              <td>{figure(number(row as Data, "held_mb"))}</td>
              <td>{figure(number(row as Data, "passed_mb"))}</td>
            </tr>
          );
        })}
      </tbody>
    </table>
  );
}

/** The chain of causes as a thread, the nearest cause first. */
export function Chain({ event }: { event: LogEvent }) {
  const { model } = useApp();
  const [open, setOpen] = useState<Set<string>>(new Set());
  const chain = useDerived(() => model.store.chain(event), model, [event]);
  const lines = fold(chain);
  const seen = firstObservation(chain);
  const shown: Line[] = lines.flatMap((line) =>
    "hidden" in line && open.has(line.hidden[0].id) ? line.hidden.map((hidden) => ({ event: hidden })) : [line],
  );
  const last = chain[chain.length - 1];
  return (
    <>
      <p className="why-lead">
        {chain.length === 1
          ? "Nothing in the log caused it: it is where a chain begins."
          : seen
            ? `It goes back in ${counted(chain.length - 1, "step")} to the run's beginning; what was seen first is marked.`
            : `It goes back in ${counted(chain.length - 1, "step")}.`}
      </p>
      <ol className="chain" data-length={chain.length} data-ids={chain.length <= 400 ? chain.map((each) => each.id).join(" ") : undefined}>
        {shown.map((line) =>
          "hidden" in line ? (
            <li key={`hidden ${line.hidden[0].id}`} className="folded">
              <button type="button" onClick={() => setOpen(new Set([...open, line.hidden[0].id]))}>
                {counted(line.hidden.length, "step")} between
              </button>
            </li>
          ) : (
            <ChainLine key={line.event.id} event={line.event} first={line.event === chain[0]} seen={line.event === seen} />
          ),
        )}
      </ol>
      {last.cause !== null && <p className="note">The cause before that ({last.cause}) is not in this log.</p>}
      {open.size > 0 && chain.length > MOST_LINES && (
        <button type="button" className="quiet" onClick={() => setOpen(new Set())}>
          Fold again
        </button>
      )}
    </>
  );
}

function ChainLine({ event, first, seen }: { event: LogEvent; first: boolean; seen: boolean }) {
  const figures = isObservation(event) ? evidence(event, 3) : undefined;
  return (
    <li className={`${role(event)}${seen ? " seen" : ""}${first ? " own" : ""}`} data-id={event.id}>
      <span className="chain-head">
        <span className="role">{seen ? "first seen" : ROLE_WORDS[role(event)]}</span>
        <At time={event.time} />
        <b>{event.agent}</b>
      </span>
      {first ? (
        <span className="note">this</span>
      ) : (
        <Fact of={event}>
          <Say text={event.text} />
        </Fact>
      )}
      {figures && (
        <table className="figures">
          <thead>
            <tr>
              {figures.head.map((name) => (
                <th key={name} scope="col">
                  {name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {figures.rows.map((row) => (
              <tr key={row[0]}>
                {row.map((cell, at) => (
                  <td key={figures.head[at]}>{cell}</td>
                ))}
              </tr>
            ))}
            {figures.more > 0 && (
              <tr>
                <td colSpan={figures.head.length}>and {figures.more} more</td>
              </tr>
            )}
          </tbody>
        </table>
      )}
    </li>
  );
}

/** Contrastive: why not another agent, and what would have to change. */
function WhyNot({ event }: { event: LogEvent }) {
  const app = useApp();
  const { model } = app;
  const auction = useDerived(() => model.auctions.with(event), model, [event]);
  const others = auction ? candidates(model.store, auction).filter((agent) => agent !== auction.winner) : [];
  const own = event.kind === "auction.refused" || event.kind === "auction.bid" ? event.agent : "";
  const [agent, setAgent] = useState(own);
  if (!auction || !others.length) return null;
  const chosen = others.includes(agent) ? agent : (auction.bids.find((bid) => bid.agent !== auction.winner)?.agent ?? auction.refusals[0]?.agent ?? others[0]);
  return (
    <section className="why-not" aria-label="Why not another agent">
      <h4>
        Why {auction.winner || "nobody"}, and not{" "}
        <select aria-label="another agent" value={chosen} onChange={(change) => setAgent(change.target.value)}>
          {others.map((name) => (
            <option key={name}>{name}</option>
          ))}
        </select>
        ?
      </h4>
      {whyNot(auction, chosen).map((words) => (
        <p key={words}>
          <Say text={words} />
        </p>
      ))}
      <button type="button" className="quiet" onClick={() => app.go({ view: "auctions", auction: auction.key })}>
        Open the auction
      </button>
    </section>
  );
}

const MOST_EFFECTS = 30;

function Effects({ event }: { event: LogEvent }) {
  const { model } = useApp();
  const found = useDerived(() => model.store.effects(event, MOST_EFFECTS + 1), model, [event]);
  if (!found.length) return <Empty>Nothing followed from it.</Empty>;
  return (
    <ol className="chain then">
      {found.slice(0, MOST_EFFECTS).map((effect) => (
        <li key={effect.id} className={role(effect)}>
          <span className="chain-head">
            <span className="role">{ROLE_WORDS[role(effect)]}</span>
            <At time={effect.time} />
            <b>{effect.agent}</b>
          </span>
          <Fact of={effect}>
            <Say text={effect.text} />
          </Fact>
        </li>
      ))}
      {found.length > MOST_EFFECTS && <li className="folded">and more</li>}
    </ol>
  );
}

function Record({ event }: { event: LogEvent }) {
  const goal = text(event.data, "goal") || text(event.data, "effect") || text(event.data, "belief");
  const rows: [string, unknown][] = [
    ["id", event.id],
    ["kind", event.kind],
    ["time", clock(event.time, true)],
    ["agent", event.agent],
    ["cause", event.cause ?? "none: a root"],
    ...Object.entries(event.data),
  ];
  return (
    <>
      {goal && (
        <p>
          In symbols: <code>{goal}</code>
        </p>
      )}
      <dl className="record">
        {rows.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>
              <bdi>{shorten(written(value))}</bdi>
            </dd>
          </div>
        ))}
      </dl>
    </>
  );
}

const shorten = (words: string) => (words.length > 800 ? `${words.slice(0, 800)}…` : words);
