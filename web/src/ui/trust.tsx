/** Trust: wrapping, initial attestation, who verifies whom, the chain of blocks, revocations. */

import { scaleLinear } from "d3-scale";
import { useApp, useDerived } from "../state";
import { lastAt, natural, text } from "../store";
import type { Result } from "../trust";
import { clock, counted, listed, plain } from "../words";
import { At, Empty, Fact, Say, Section, shapeFact, useWidth } from "./parts";

export function TrustView() {
  const { model, time } = useApp();
  const { trust } = model;
  const agents = useDerived(() => trust.agents, model, []);
  if (!agents.length)
    return (
      <div className="view">
        <Empty>In this run no agent attests itself: its scenario has no part “trust”. The scenario infected-agent shows it.</Empty>
      </div>
    );
  const out = agents.filter((agent) => ["quarantined", "silent"].includes(trust.standing(agent, time)?.value ?? ""));
  const trusted = agents.filter((agent) => trust.standing(agent, time)?.value === "trusted");
  return (
    <div className="view trust">
      <section className={`verdict ${out.length ? "hurt" : "well"}`} aria-label="Verdict on trust">
        <span className="sign" aria-hidden="true">{out.length ? "!" : "✓"}</span>
        <div>
          <h1>{out.length ? `${listed(out)} ${out.length === 1 ? "is" : "are"} not trusted.` : `${trusted.length} of ${agents.length} agents are trusted.`}</h1>
          <p>
            {out.map((agent) => {
              const step = trust.standing(agent, time);
              return (
                <span key={agent}>
                  <Fact of={step?.event}>
                    {agent} is {step?.value}
                  </Fact>
                  : {text(step?.event.data, "reason")}.{" "}
                </span>
              );
            })}
            {trust.modelled && "The measurers are models here, since all agents share one process."}
          </p>
        </div>
      </section>
      <Initial agents={agents} />
      <Plan agents={agents} />
      <Rounds agents={agents} />
      <div className="columns">
        <Blocks />
        <Keys />
      </div>
    </div>
  );
}

/** Wrapping and initial attestation, step by step, of each agent. */
function Initial({ agents }: { agents: string[] }) {
  const { model, time } = useApp();
  const { trust } = model;
  const rows = useDerived(() => agents.filter((agent) => trust.enrolled.has(agent) || trust.chain.some((r) => r.attester === agent)).map((agent) => {
    const wrapped = trust.enrolled.get(agent);
    const verified = trust.chain.find((result) => result.attester === agent);
    const standing = trust.standings.get(agent)?.find((step) => step.value === "trusted");
    const key = [...trust.keys.entries()].flatMap(([epoch, { agents: own }]) => own.filter((event) => event.agent === agent).map((event) => ({ epoch, event })))[0];
    return { agent, steps: [
      { name: "wrapped", event: wrapped, words: text(wrapped?.data, "software") },
      { name: "verified", event: verified?.event, words: verified ? `by ${verified.verifier}` : "" },
      { name: "trusted", event: standing?.event, words: standing ? `block ${block(text(standing.event.data, "position"))}` : "" },
      { name: "key", event: key?.event, words: key ? `epoch ${key.epoch}` : "" },
    ] };
  }), model, [agents]);
  return (
    <Section title="Wrapping and initial attestation" note="enrolled with reference values, measured, recorded, given a key">
      <ol className="initial">
        {rows.map(({ agent, steps }) => (
          <li key={agent}>
            <b>{agent}</b>
            {steps.map(({ name, event, words }) => {
              const done = event && event.time <= time;
              return (
                <span key={name} className={`step ${done ? "done" : ""}`}>
                  <Fact of={done ? event : undefined}>
                    <span aria-hidden="true">{done ? "✓" : "○"}</span> {name}
                  </Fact>
                  <span className="sub">{done ? `${words} at ${clock(event.time)}` : "not yet"}</span>
                </span>
              );
            })}
          </li>
        ))}
      </ol>
    </Section>
  );
}

/** The multi-step plan of mutual attestation: who verified whom first, as a chain from the root. */
function Plan({ agents }: { agents: string[] }) {
  const app = useApp();
  const { model, time } = app;
  const [ref, width] = useWidth<HTMLDivElement>();
  const chain = model.trust.chain;
  const root = chain[0]?.verifier;
  const nodes = [root, ...chain.map((r) => r.attester)].filter((name): name is string => !!name);
  const unique = [...new Set(nodes)];
  const perRow = Math.max(2, Math.floor(width / 118));
  const place = new Map(unique.map((name, at) => {
    const row = Math.floor(at / perRow);
    const column = row % 2 ? perRow - 1 - (at % perRow) : at % perRow;
    return [name, { x: 58 + column * 114, y: 44 + row * 92 }] as const;
  }));
  const height = 92 * Math.ceil(unique.length / perRow) + 10;
  return (
    <Section title="Chain of trust" note={`${counted(agents.length, "agent")}; each verified agent verifies the next, from the root ${root ?? ""} on`}>
      <div ref={ref} className="plan">
        <svg width={width} height={height} role="group" aria-label="Who verified whom first">
          <defs>
            <marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
              <path d="M0 0L8 4L0 8z" className="arrow-head" />
            </marker>
          </defs>
          {chain.map((result) => {
            const a = place.get(result.verifier);
            const b = place.get(result.attester);
            if (!a || !b) return null;
            const done = result.time <= time;
            const length = Math.hypot(b.x - a.x, b.y - a.y) || 1;
            const [ux, uy] = [(b.x - a.x) / length, (b.y - a.y) / length];
            const far = length > 130;
            const bend = far ? 34 : 0;
            const [x1, y1, x2, y2] = [a.x + 23 * ux, a.y + 23 * uy, b.x - 25 * ux, b.y - 25 * uy];
            return (
              <g key={result.event.id} {...shapeFact(app, result.event, `${result.verifier} verified ${result.attester} at ${clock(result.time)}`)}>
                <title>{`${result.verifier} verified ${result.attester} at ${clock(result.time)}`}</title>
                <path className={`verified ${done ? "done" : ""}`} d={`M${x1} ${y1}Q${(x1 + x2) / 2} ${(y1 + y2) / 2 - bend} ${x2} ${y2}`} markerEnd="url(#arrow)" />
                <text className="rate" x={(x1 + x2) / 2} y={(y1 + y2) / 2 - bend / 2 - 7} textAnchor="middle">{clock(result.time)}</text>
              </g>
            );
          })}
          {unique.map((name) => {
            const point = place.get(name) as { x: number; y: number };
            const step = model.trust.standing(name, time);
            const state = name === root && !model.trust.agents.includes(name) ? "root" : (step?.value ?? "unattested");
            return (
              <g key={name} transform={`translate(${point.x} ${point.y})`} {...shapeFact(app, step?.event, `${name}: ${state}`)}>
                <title>{`${name}: ${state}`}</title>
                <circle className={`ring ${state}`} r={22} />
                <circle className="pop" r={17} />
                <text className="name" y={4} textAnchor="middle">{name.length > 7 ? `${name.slice(0, 6)}…` : name}</text>
                <text className="name small" y={38} textAnchor="middle">{state === "root" ? "root of trust" : state}</text>
              </g>
            );
          })}
        </svg>
      </div>
    </Section>
  );
}

const ROW = 22;

/** Every attestation over time, a row for each agent that was measured. */
function Rounds({ agents }: { agents: string[] }) {
  const app = useApp();
  const { model, from, to, time } = app;
  const [ref, width] = useWidth<HTMLDivElement>();
  const x = scaleLinear([from, to], [74, width - 12]);
  const rows = useDerived(() => {
    const found = new Map<string, Result[]>(agents.map((agent) => [agent, []]));
    for (const result of model.trust.results) if (result.time >= from && result.time <= to) found.get(result.attester)?.push(result);
    return [...found].map(([agent, results]) => [agent, sparse(results, x, width)] as const);
  }, model, [agents, from, to, width]);
  const height = ROW * rows.length + 24;
  return (
    <Section title="Every look" note={`${counted(model.trust.results.length, "attestation")}; who measured whom, and what came out`}>
      <div ref={ref} className="chart">
        <svg width={width} height={height} role="group" aria-label="Attestations over time">
          {rows.map(([agent, results], at) => {
            const y = ROW * at + ROW / 2 + 2;
            const steps = model.trust.standings.get(agent) ?? [];
            return (
              <g key={agent}>
                <text className="name row-name" x={4} y={y + 4}>{agent}</text>
                <line className="row-line" x1={74} x2={width - 12} y1={y} y2={y} />
                {steps.map((step, i) => {
                  const end = steps[i + 1]?.time ?? model.store.end;
                  if (step.value === "trusted" || end < from || step.time > to) return null;
                  return (
                    <g key={step.event.id} {...shapeFact(app, step.event, `${agent} is ${step.value} from ${clock(step.time)} to ${clock(end)}`)}>
                      <title>{`${agent} is ${step.value} from ${clock(step.time)} to ${clock(end)}`}</title>
                      <rect className={`out ${step.value}`} x={x(Math.max(step.time, from))} width={Math.max(3, x(Math.min(end, to)) - x(Math.max(step.time, from)))} y={y - 8} height={16} />
                    </g>
                  );
                })}
                {results.map((result) => (
                  <g key={result.event.id} {...shapeFact(app, result.event, plain(result.event.text))} tabIndex={-1}>
                    <title>{`${clock(result.time)} ${result.verifier} ${plain(result.event.text)}`}</title>
                    {result.tier === "affirming" ? <circle className={`look affirming ${result.time > time ? "later" : ""}`} cx={x(result.time)} cy={y} r={3.4} /> : <path className={`look ${result.tier} ${result.time > time ? "later" : ""}`} d={`M${x(result.time) - 4.5} ${y - 4.5}l9 9m0 -9l-9 9`} />}
                  </g>
                ))}
              </g>
            );
          })}
          <line className="cursor" x1={x(time)} x2={x(time)} y1={0} y2={height - 18} />
          {x.ticks(Math.max(2, Math.min(8, width / 110))).map((tick) => (
            <text key={tick} className="axis" x={x(tick)} y={height - 4} textAnchor="middle">{clock(tick).replace(/\.0(?= s|$)/, "")}</text>
          ))}
        </svg>
        <p className="legend">
          <span className="key look-good">genuine</span>
          <span className="key look-bad">not genuine, or silent</span>
          <span className="key out-span">not trusted</span>
        </p>
      </div>
    </Section>
  );
}

/** Of results that would cover each other, those that are not affirming stay. */
function sparse(results: Result[], x: (time: number) => number, width: number): Result[] {
  if (results.length < width / 6) return results;
  let last = -Infinity;
  return results.filter((result) => {
    if (result.tier === "affirming" && x(result.time) - last < 5) return false;
    last = x(result.time);
    return true;
  });
}

/** The ledger counts positions as block × 2^20 + index. */
const block = (position: string): string => {
  const value = Number(position);
  return value >= 2 ** 20 ? String(Math.floor(value / 2 ** 20)) : position;
};

function Blocks() {
  const { model, time } = useApp();
  const blocks = useDerived(() => model.trust.blocks.filter((each) => each.time <= time).toSorted((a, b) => b.time - a.time || b.position - a.position), model, [time]);
  return (
    <Section title="Blocks of the ledger" note={`${blocks.length} changes of standing`}>
      {!blocks.length && <Empty>The ledger has no word on any agent yet.</Empty>}
      <ol className="blocks">
        {blocks.slice(0, 40).map((each) => (
          <li key={each.event.id} className={each.standing}>
            <span className="block-number" title={`position ${each.position}`}>#{block(String(each.position))}</span>
            <span>
              <Fact of={each.event}>
                <Say text={each.event.text} />
              </Fact>
              <span className="sub">
                <At time={each.time} />
              </span>
            </span>
          </li>
        ))}
      </ol>
    </Section>
  );
}

function Keys() {
  const { model, time } = useApp();
  const { trust } = model;
  const epochs = useDerived(() => [...trust.keys].filter(([, key]) => key.time <= time).sort((a, b) => b[0] - a[0]), model, [time]);
  const breaches = trust.breaches.slice(0, lastAt(trust.breaches, time) + 1);
  const agreed = model.trust.agreed.slice(0, lastAt(model.trust.agreed, time) + 1);
  return (
    <Section title="Keys of the overlay" note="epochs; the keys themselves are in no log">
      {!epochs.length && <Empty>No key was handed out yet.</Empty>}
      <ul className="lines">
        {epochs.map(([epoch, key]) => {
          const have = key.agents.filter((event) => event.time <= time);
          return (
            <li key={epoch}>
              <At time={key.time} />
              <span>
                <Fact of={have[0]}>
                  <b>Epoch {epoch}</b>
                </Fact>{" "}
                handed out by {key.by}, used by {listed([...new Set(have.map((event) => event.agent))].sort(natural), 8)}
              </span>
            </li>
          );
        })}
      </ul>
      {agreed.length > 0 && (
        <p className="note">
          {counted(new Set(agreed.map((event) => [event.agent, text(event.data, "agent")].sort().join(" "))).size, "pair")} agreed on latency and loss; {breaches.length ? `${counted(breaches.length, "breach")} seen:` : "no breach was seen."}
        </p>
      )}
      <ul className="lines">
        {breaches.slice(-12).map((event) => (
          <li key={event.id}>
            <At time={event.time} />
            <span>
              <b>{event.agent}</b>{" "}
              <Fact of={event}>
                <Say text={event.text} />
              </Fact>
            </span>
          </li>
        ))}
      </ul>
    </Section>
  );
}
