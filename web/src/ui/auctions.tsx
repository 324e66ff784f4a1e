/** Auctions: calls, bids taken apart to weight × scaled term, refusals, and what if. */

import { useEffect, useState } from "react";
import { type Auction, type Bid, candidates, shares, sum, TERM_NAMES, unit, whyNot } from "../auctions";
import { useApp, useDerived } from "../state";
import { text } from "../store";
import { clock, counted, figure, written } from "../words";
import { At, Empty, Fact, Say, Section } from "./parts";

const MOST = 200;

export function AuctionsView() {
  const app = useApp();
  const { model, time, place } = app;
  const [filter, setFilter] = useState("");
  const found = useDerived(() => {
    const wanted = filter.toLowerCase();
    return model.auctions.all
      .filter((events) => events[0].time <= time)
      .toReversed()
      .filter((events) => !wanted || `${text(events[0].data, "goal")} ${events[0].agent} ${events.map((e) => text(e.data, "winner")).join(" ")}`.toLowerCase().includes(wanted));
  }, model, [time, filter]);
  const chosen = useDerived(() => {
    const event = model.store.get(place.auction);
    if (event) return model.auctions.with(event);
    const rich = found.find((events) => ((events.at(-1)?.data.ranking as unknown[] | undefined)?.length ?? 0) > 1);
    return found.length ? model.auctions.read(rich ?? found[0]) : undefined;
  }, model, [place.auction, found]);
  return (
    <div className="view auctions">
      <Section title="Auctions" note={`${counted(found.length, "call")} up to ${clock(time)}`} className="auction-list">
        <input type="search" placeholder="Goal, auctioneer or winner" aria-label="Filter auctions" value={filter} onChange={(event) => setFilter(event.target.value)} />
        {!found.length && <Empty>No auction was called up to this instant.</Empty>}
        <ul>
          {found.slice(0, MOST).map((events) => {
            const auction = model.auctions.read(events);
            const closed = auction.close && auction.close.time <= time;
            return (
              <li key={auction.key}>
                <button type="button" aria-pressed={chosen?.key === auction.key} onClick={() => app.go({ auction: auction.key })} data-auction={auction.key}>
                  <span className="sub">
                    {clock(auction.call.time)} <b>{auction.auctioneer}</b> · {counted(auction.bids.length, "bid")}
                    {auction.refusals.length > 0 && `, ${counted(auction.refusals.length, "refusal")}`}
                  </span>
                  <Say text={auction.goal} capital />
                  <span className={`outcome ${closed ? auction.outcome : "open"}`}>{!closed ? "open" : auction.outcome === "awarded" ? `→ ${auction.winner}` : "no agent"}</span>
                </button>
              </li>
            );
          })}
        </ul>
        {found.length > MOST && <p className="note">The latest {MOST} are shown; filter, or move the time.</p>}
      </Section>
      {chosen ? <Detail key={chosen.key} auction={chosen} /> : <Empty>Choose an auction.</Empty>}
    </div>
  );
}

function Detail({ auction }: { auction: Auction }) {
  const app = useApp();
  const ranked = auction.bids.filter((bid) => bid.utility !== undefined);
  const unranked = auction.bids.filter((bid) => bid.utility === undefined);
  const [weights, setWeights] = useState(auction.weights);
  useEffect(() => setWeights(auction.weights), [auction]);
  const changed = Object.keys(weights).some((term) => weights[term] !== auction.weights[term]);
  const parts = shares(auction, ranked, weights);
  const order = ranked.map((bid, at) => ({ bid, parts: parts[at], utility: sum(parts[at]) })).sort((a, b) => a.utility - b.utility);
  const most = Math.max(1e-9, ...order.map((each) => each.utility));
  const terms = Object.keys(auction.weights);
  const bidEvent = (bid: Bid) => app.model.store.of("auction.bid").find((event) => event.agent === bid.agent && text(event.data, "auction") === text(auction.call.data, "auction"));
  return (
    <article className="auction" aria-label="Auction" data-auction-shown={auction.key}>
      <header>
        <h1>
          <Say text={auction.goal} capital />
        </h1>
        <p>
          <Fact of={auction.call}>Called by {auction.auctioneer}</Fact> at <At time={auction.call.time} exact />
          {auction.close && (
            <>
              {" "}and <Fact of={auction.close}>{auction.outcome === "awarded" ? `awarded to ${auction.winner}` : "ended without a winner"}</Fact> {((auction.close.time - auction.call.time) * 1000).toFixed(0)} ms later
            </>
          )}
          .
        </p>
        {Object.keys(auction.constraints).length > 0 && <p className="note">Must hold: {Object.entries(auction.constraints).map(([name, limit]) => `${name} ${written(limit)}`).join(", ")}.</p>}
      </header>

      <Section title="Bids" note={ranked.length ? "the lowest utility wins: each part is weight × scaled term" : undefined}>
        {!ranked.length && <Empty>No bid was ranked.</Empty>}
        <ol className="bids">
          {order.map(({ bid, parts: own, utility }, at) => (
            <li key={`${bid.agent} ${bid.vnf} ${bid.units}`} className={bid.agent === auction.winner ? "won" : ""} data-bid={bid.agent}>
              <span className="bidder">
                <Fact of={bidEvent(bid) ?? auction.close}>
                  <b>{bid.agent}</b>
                </Fact>
                {at === 0 && <span className="tag best">{changed && bid.agent !== auction.winner ? "would win" : "best"}</span>}
                <span className="sub">{bid.vnf} × {bid.units}{bid.reuse ? ", runs already" : ""}</span>
              </span>
              <span className="bar" role="img" aria-label={own.map((p) => `${p.term} ${figure(p.weight)} × ${figure(p.scaled)}`).join(" plus ")}>
                {own.map((part) => (
                  <i key={part.term} className={`term ${termClass(part.term, terms)}`} style={{ width: `${(100 * Math.max(0, part.weight * part.scaled)) / most}%` }} title={`${part.term}: ${figure(part.weight)} × ${figure(part.scaled, 4)}`} />
                ))}
              </span>
              <span className="utility">{figure(utility, 4)}</span>
              <span className="parts">
                {own.map((part) => (
                  <span key={part.term}>
                    <i className={`swatch ${termClass(part.term, terms)}`} aria-hidden="true" /> {TERM_NAMES[part.term] ?? part.term} {figure(part.value)} {unit(part.term)} → {figure(part.weight)} × {figure(part.scaled, 3)}
                  </span>
                ))}
              </span>
            </li>
          ))}
        </ol>
        {unranked.length > 0 && <p className="note">Not ranked: {unranked.map((bid) => bid.agent).join(", ")}.</p>}
      </Section>

      {ranked.length > 1 && (
        <Section
          title="What if"
          note="other preferences"
          className="what-if"
          actions={
            changed ? (
              <button type="button" className="quiet" onClick={() => setWeights(auction.weights)}>
                As it was
              </button>
            ) : undefined
          }
        >
          <div className="weights">
            {terms.map((term) => (
              <label key={term}>
                <span>
                  <i className={`swatch ${termClass(term, terms)}`} aria-hidden="true" /> {TERM_NAMES[term] ?? term} <b>{figure(weights[term])}</b>
                </span>
                <input type="range" min={0} max={1} step={0.01} value={weights[term]} onChange={(event) => setWeights({ ...weights, [term]: Number(event.target.value) })} />
              </label>
            ))}
          </div>
          <p aria-live="polite">
            {order[0].bid.agent === auction.winner ? `${auction.winner} wins${changed ? " with these weights too" : ""}.` : `With these weights ${order[0].bid.agent} would win, not ${auction.winner}.`}
          </p>
        </Section>
      )}

      {(auction.refusals.length > 0 || auction.silent.length > 0) && (
        <Section title="Refused" note={counted(auction.refusals.length + auction.silent.length, "agent")}>
          <ul className="lines">
            {auction.refusals.map((refusal) => (
              <li key={refusal.agent} data-refusal={refusal.agent}>
                <Fact of={refusal.event}>
                  <b>{refusal.agent}</b>
                </Fact>
                <Say text={refusal.reason || "it gave no reason"} />
              </li>
            ))}
            {auction.silent.map((agent) => (
              <li key={agent}>
                <b>{agent}</b> <span>did not answer before the deadline</span>
              </li>
            ))}
          </ul>
        </Section>
      )}
      <WhyNotAll auction={auction} />
    </article>
  );
}

const COLOURS = ["a", "b", "c", "d", "e"];
const termClass = (term: string, terms: string[]) => `term-${COLOURS[terms.indexOf(term) % COLOURS.length]}`;

function WhyNotAll({ auction }: { auction: Auction }) {
  const { model } = useApp();
  const others = candidates(model.store, auction).filter((agent) => agent !== auction.winner);
  if (!others.length || auction.outcome === "open") return null;
  return (
    <Section title={`Why ${auction.winner || "nobody"}, and not…`}>
      <dl className="why-nots">
        {others.slice(0, 40).map((agent) => (
          <div key={agent} data-why-not={agent}>
            <dt>{agent}</dt>
            <dd>
              <Say text={whyNot(auction, agent).join(" ")} />
            </dd>
          </div>
        ))}
      </dl>
    </Section>
  );
}
