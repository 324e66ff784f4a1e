/** Now: is the service safe, what is being done about what, and what holds. */

import { useState } from "react";
import { release } from "./actions";
import { useApp, useDerived } from "../state";
import { type LogEvent, names, natural, text } from "../store";
import { type Health, health, isAlarm, type Life } from "../world";
import { holds, trafficOf } from "../why";
import { counted, figure, listed, percent, plain } from "../words";
import { TrafficChart } from "./chart";
import { ClosedLoops, Summary } from "./whole";
import { At, Empty, Fact, Say, Section } from "./parts";

const STATE_WORDS = { well: "safe", held: "attack held off", hurt: "users are hurt", unknown: "unknown" };
const SIGNS = { well: "✓", held: "◆", hurt: "!", unknown: "?" };
const MOST = 12;

export function NowView() {
  const app = useApp();
  const { model, time } = app;
  const { world } = model;
  const all = useDerived(() => {
    const found = world.hosts.map((host) => health(world, host, time));
    const rank = { hurt: 0, held: 1, well: 2, unknown: 3 };
    return found.sort((a, b) => rank[a.state] - rank[b.state] || b.wanted + b.attack - a.wanted - a.attack);
  }, model, [time]);
  const busy = useDerived(() => new Set(world.hosts.filter((host) => (world.traffic.get(host.name) ?? []).some((s) => s.wanted > 0 || s.malicious > 0)).map((h) => h.name)), model, []);
  const measures = useDerived(() => world.measures.at(time), model, [time]);
  const shown = all.filter((each) => busy.has(each.host.name));
  return (
    <div className="view now">
      <Verdict shown={shown} measures={measures} />
      <div className="services">
        {shown.slice(0, MOST).map((each) => (
          <Service key={each.host.name} health={each} />
        ))}
      </div>
      {all.length > shown.length && <p className="note">{counted(all.length - shown.length, "more host")} without traffic: {listed(all.filter((each) => !busy.has(each.host.name)).map((each) => each.host.name))}.</p>}
      <div className="two-columns">
        <div>
          <Measures measures={measures} />
          <Sources />
          <Summary />
        </div>
        <div>
          <Doing />
          <Story />
          <ClosedLoops />
        </div>
      </div>
    </div>
  );
}

/** The whole in one sentence or two. */
function Verdict({ shown, measures }: { shown: Health[]; measures: Life[] }) {
  const { model, time } = useApp();
  const { world, trust } = model;
  const attackers = world.senders(time).filter(({ group }) => group.malicious);
  const worst = shown[0];
  const alarms = world.alarms.at(time);
  const out = trust.agents.filter((agent) => trust.standing(agent, time)?.value === "quarantined");
  const hurt = shown.filter((each) => each.state === "hurt");
  const state = hurt.length ? "hurt" : attackers.length || alarms.length || measures.length ? "held" : shown.length && worst.state === "unknown" ? "unknown" : "well";
  const dropped = measures.filter((life) => names(life.begun.data, "sources").length);
  const places = [...new Set(measures.map((life) => text(life.begun.data, "pop")))].sort(natural);
  const held = measures.reduce((mb, life) => mb + (world.hits(life, time).at(-1)?.held ?? 0), 0);
  const blocked = new Set(dropped.flatMap((life) => names(life.begun.data, "sources"))).size;
  const head = {
    hurt: hurt.length === 1 ? `Users of ${hurt[0].host.name} get ${percent(hurt[0].share)} of what they ask for.` : `Users of ${listed(hurt.map((each) => each.host.name))} get less than they ask for.`,
    held: attackers.length ? "Under attack, and the users are served." : "The users are served; agents stay on guard.",
    well: shown.length ? "All services are safe." : "No service is measured in this log.",
    unknown: "Nothing was measured yet.",
  }[state];
  return (
    <section className={`verdict ${state}`} aria-live="polite" aria-label="Verdict">
      <span className="sign" aria-hidden="true">{SIGNS[state]}</span>
      <div>
        <h1>{head}</h1>
        <p>
          {attackers.length > 0 && (
            <>
              <Fact of={attackers[0].event}>{counted(attackers.reduce((n, { group }) => n + group.count, 0), "attacker")}</Fact> {attackers.length === 1 ? `send a ${attackers[0].group.profile} to ${listed(attackers[0].group.targets)}` : `of ${counted(attackers.length, "group")} send`}.{" "}
            </>
          )}
          {alarms.length > 0 && (
            <>
              <Fact of={alarms[0].begun}>{counted(alarms.length, "alarm")}</Fact> {alarms.length === 1 ? "stands" : "stand"}.{" "}
            </>
          )}
          {measures.length > 0 ? (
            <>
              <Fact of={measures[0].begun}>{counted(measures.length, "measure")}</Fact> {measures.length === 1 ? "is" : "are"} in force at {listed(places)}{blocked ? `, against ${counted(blocked, "source")}` : ""}{held > 0 && `, and held ${figure(held)} MB back so far`}.{" "}
            </>
          ) : (
            "No measure is in force. "
          )}
          {out.length > 0 && (
            <>
              <Fact of={trust.standing(out[0], time)?.event}>{listed(out)}</Fact> {out.length === 1 ? "is" : "are"} not trusted.
            </>
          )}
        </p>
      </div>
    </section>
  );
}

function Service({ health: each }: { health: Health }) {
  return (
    <article className={`service ${each.state}`} aria-label={`Service ${each.host.name}`}>
      <header>
        <h2>
          <bdi>{each.host.name}</bdi> <span className="address">{each.host.address}{each.host.at && ` at ${each.host.at}`}</span>
        </h2>
        <Fact of={each.sample?.event} className={`state ${each.state}`}>
          <span aria-hidden="true">{SIGNS[each.state]}</span> {STATE_WORDS[each.state]}
        </Fact>
      </header>
      <p className="service-words">
        {each.sentence} {each.state !== "unknown" && <>They get {figure(each.got)} of {figure(each.wanted)} MB/s ({percent(each.share)}).</>}
      </p>
      <TrafficChart host={each.host} />
    </article>
  );
}

function Measures({ measures }: { measures: Life[] }) {
  const app = useApp();
  const { model, session, place } = app;
  const [all, setAll] = useState(false);
  const shown = all ? measures : measures.slice(0, MOST);
  const mayRelease = session.actions.includes("release") && place.time === undefined;
  return (
    <Section title="In force" note={counted(measures.length, "measure")} className="measures">
      {!measures.length && <Empty>No limit, block or replica stands at this instant.</Empty>}
      <ul className="cards">
        {shown.map((life) => {
          const cause = reasonOf(model.store.chain(life.begun));
          return (
            <li key={life.begun.id} data-measure={life.key}>
              <div className="card-main">
                <Fact of={life.begun}>
                  <Say text={text(life.begun.data, "effect")} capital />
                </Fact>
                <span className="sub">
                  <b>{text(life.begun.data, "pop")}</b> since <At time={life.time} />: <Say text={holds(life.begun)} />
                </span>
                <HitCount life={life} />
                {cause && (
                  <span className="sub">
                    because {cause.agent}{" "}
                    <Fact of={cause}>
                      <Say text={found(cause)} />
                    </Fact>
                  </span>
                )}
              </div>
              {mayRelease && (
                <button type="button" className="undo" onClick={() => release(app, life)}>
                  Release
                </button>
              )}
            </li>
          );
        })}
      </ul>
      {measures.length > shown.length && (
        <button type="button" className="quiet" onClick={() => setAll(true)}>
          Show all {measures.length}
        </button>
      )}
    </Section>
  );
}

/** What a measure met so far: a figure of the log beside each, and how it grew. */
function HitCount({ life }: { life: Life }) {
  const { model, time } = useApp();
  const hits = useDerived(() => model.world.hits(life, time), model, [life.begun.id, time]);
  const last = hits.at(-1);
  if (!last) return <span className="sub hits">{time - life.time < 5 ? "not counted yet" : "met no traffic yet"}</span>;
  const holds = last.held > 0;
  const rate = model.world.hitRate(life, time, holds ? "held" : "passed");
  const words = [...(holds ? [`${figure(last.held)} MB ${names(life.begun.data, "sources").length ? "dropped" : "held back"}`] : []), ...(last.passed > 0 ? [`${figure(last.passed)} MB passed`] : [])];
  return (
    <span className="sub hits" data-held={last.held} data-passed={last.passed}>
      <Fact of={last.event}>{words.join(", ")} so far</Fact>, {rate > 0 ? `${figure(rate)} MB/s ${holds && last.passed > 0 ? "held back " : ""}at last count` : "nothing lately"}
      <Growth of={hits.map((each) => ({ time: each.time, value: holds ? each.held : each.passed }))} begin={life.time} end={time} />
    </span>
  );
}

/** A total over time, as a line without axes. */
function Growth({ of, begin, end }: { of: { time: number; value: number }[]; begin: number; end: number }) {
  const most = of.at(-1)?.value || 1;
  const x = (at: number) => (64 * (at - begin)) / Math.max(end - begin, 1e-9);
  const y = (value: number) => 13 - (12 * value) / most;
  const points = [{ time: begin, value: 0 }, ...of, { time: end, value: most }].map((each) => `${x(each.time).toFixed(1)},${y(each.value).toFixed(1)}`);
  return (
    <svg className="growth" viewBox="0 0 64 14" aria-hidden="true">
      <polyline points={points.join(" ")} />
    </svg>
  );
}

/** The nearest observation behind something, which is the reason to give beside it. */
function reasonOf(chain: LogEvent[]): LogEvent | undefined {
  return chain.find((event) => event.kind === "analysis.done" || event.kind === "trouble.diagnosed" || event.kind === "belief.changed");
}

/** What an observation comes to, in a few words. */
function found(event: LogEvent): string {
  const flows = names(event.data, "found").length;
  return flows ? `found ${flows} of ${text(event.data, "flows")} flows malicious` : event.text;
}

/** What the agents work at: goals that are open, what is on its way, auctions without a winner. */
function Doing() {
  const { model, time } = useApp();
  const { world } = model;
  const rows = useDerived(() => {
    const goals = world.goals.at(time).map((life) => ({ life, words: `wants ${text(life.begun.data, "goal")}` }));
    const downloads = world.downloads.at(time).map((life) => ({ life, words: life.begun.text }));
    const auctions = world.auctions.at(time).map((life) => ({ life, words: life.begun.text }));
    const groups = new Map<string, { lives: Life[]; words: string; agents: Set<string> }>();
    for (const { life, words } of [...auctions, ...downloads, ...goals.toReversed()]) {
      const key = plain(words).replace(/\b\w*\d+\b/g, "#");
      const group = groups.get(key) ?? { lives: [], words, agents: new Set<string>() };
      group.lives.push(life);
      group.agents.add(life.begun.agent);
      groups.set(key, group);
    }
    return [...groups.values()];
  }, model, [time]);
  return (
    <Section title="Being done" note={counted(rows.length, "pursuit")} className="doing">
      {!rows.length && <Empty>Nothing is under way at this instant.</Empty>}
      <ul className="lines">
        {rows.slice(0, MOST).map(({ lives, words, agents }) => (
          <li key={lives[0].begun.id}>
            <At time={lives[0].time} />
            <span>
              <b>{listed([...agents].sort(natural), 3)}</b>{" "}
              <Fact of={lives[0].begun}>
                <Say text={words} />
              </Fact>
              {lives.length > 1 && <span className="note"> and {lives.length - 1} like it</span>}
            </span>
          </li>
        ))}
      </ul>
    </Section>
  );
}

/** The sources that the log names, and what becomes of their traffic at this instant. */
function Sources() {
  const app = useApp();
  const { model, time } = app;
  const { world, sources } = model;
  const [all, setAll] = useState(false);
  const rows = useDerived(() => {
    const found = sources.all().flatMap((source) => {
      const traffic = trafficOf(world, sources, source, time, time);
      const look = (sources.looks.get(source) ?? []).findLast((each) => each.time <= time);
      return traffic.event ? [{ source, ...traffic, look }] : [];
    });
    return found.sort((a, b) => Number(b.dropped) - Number(a.dropped) || natural(a.source, b.source));
  }, model, [time]);
  const dropped = rows.filter((row) => row.dropped).length;
  const shown = all ? rows.slice(0, 500) : rows.slice(0, MOST);
  return (
    <Section title="Sources" note={`${dropped} dropped, ${rows.length - dropped} seen and passed`} className="sources">
      {!rows.length && <Empty>No source was looked at yet.</Empty>}
      <table className="rows">
        {rows.length > 0 && (
          <thead>
            <tr>
              <th scope="col">source</th>
              <th scope="col">its traffic</th>
              <th scope="col">decided by</th>
            </tr>
          </thead>
        )}
        <tbody>
          {shown.map((row) => (
            <tr key={row.source} className={row.dropped ? "dropped" : ""}>
              <td>
                <Fact of={row.source} className="mono">{row.source}</Fact>
              </td>
              <td>
                <Fact of={row.event}>{row.dropped ? `✕ dropped at ${text(row.event?.data, "pop")}` : row.look?.verdict === "named" ? "△ named, passes" : "✓ passes"}</Fact>
              </td>
              <td>{row.event?.agent === "network" ? text(row.event.data, "pop") : row.event?.agent}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {rows.length > shown.length && (
        <button type="button" className="quiet" onClick={() => setAll(true)}>
          Show {rows.length > 500 ? "500 of " : "all "}{rows.length}
        </button>
      )}
    </Section>
  );
}

const STORY = new Set([
  ..."measure.applied measure.lifted measure.withdrawn auction.awarded auction.failed trouble.diagnosed trouble.unrelieved".split(" "),
  ..."agent.crashed agent.gone agent.returned agent.left fault.injected link.changed instance.started instance.stopped vnf.crashed".split(" "),
  ..."trust.suspected scaling.refused goal.taken_over claim.refused loop.passed loop.unrelieved host.restarted lease.expired".split(" "),
  ..."service.requested service.deployed service.reconfigured service.removed service.rolled_back run.started run.ended access.refused operator.acted".split(" "),
]);

/** What matters of the log up to this instant, the latest first. */
function Story() {
  const { model, time } = useApp();
  const rows = useDerived(() => {
    const { store } = model;
    const found: LogEvent[] = [];
    for (let at = store.until(time) - 1; at >= 0 && found.length < 40; at--) {
      const event = store.events[at];
      const malicious = event.kind === "traffic.changed" && event.data.malicious === true;
      const verdict = event.kind === "attestation.result" && event.data.tier !== "affirming";
      const expelled = event.kind === "trust.changed" && event.data.standing !== "trusted" && model.trust.first.has(event.id);
      if (STORY.has(event.kind) || malicious || verdict || expelled || (isAlarm(event) && event.data.value === true)) found.push(event);
      else if (event.kind === "analysis.done" && names(event.data, "found").length) found.push(event);
    }
    return found;
  }, model, [Math.round(time * 10)]);
  return (
    <Section title="What happened" note="the latest first" className="story">
      <ol className="lines">
        {rows.map((event) => (
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
      </ol>
    </Section>
  );
}
