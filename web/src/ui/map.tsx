/** Map: PoPs, hosts, links with load, functions and chains; where an attack enters; trust. */

import { memo, useMemo, useRef, useState } from "react";
import { layout, type Layout, type Point, shortest } from "../layout";
import { type App, useApp, useDerived } from "../state";
import { lastAt, type LogEvent, names, natural, number, table, text } from "../store";
import { health, type Life, type LinkInfo, push } from "../world";
import { clock, counted, figure, percent, plain } from "../words";
import { Empty, Fact, Section, shapeFact } from "./parts";

const R = 24;
const SHORT: Record<string, string> = { "service-monitor": "monitor", "link-monitor": "monitor", "edge-filter": "filter", "rate-limiter": "limiter", "anomaly-detector": "detector", "service-analyst": "analyst", "service-replica": "replica", "signalling-watch": "sig. watch" };
const MOST_CHIPS = 4;

export function MapView() {
  const app = useApp();
  const { model, time } = app;
  const { world, trust } = model;
  const drawing = useRef<SVGSVGElement>(null);
  const [zoom, setZoom] = useState({ x: 0, y: 0, k: 1 });
  const drag = useRef<{ x: number; y: number } | null>(null);
  const plan = useMemo(() => layout(world.pops, world.links, world.hosts), [world.pops, world.links, world.hosts]);
  const load = useDerived(() => world.load(time), model, [time]);
  const sampled = useDerived(() => world.samples.findLast((s) => s.time <= time), model, [time]);
  const cuts = useDerived(() => new Map(world.cuts.at(time).map((life) => [life.key, life])), model, [time]);
  const functions = useDerived(() => byPop(world.instances.at(time)), model, [time]);
  const downloads = useDerived(() => byPop(world.downloads.at(time)), model, [time]);
  const measures = useDerived(() => byPop(world.measures.at(time)), model, [time]);
  const agents = useDerived(() => {
    const found = new Map<string, Life>();
    for (const life of world.agents.all) if (life.time <= time) found.set(life.key, life);
    return found;
  }, model, [time]);
  const chains = useDerived(() => world.chains.at(time), model, [time]);
  const senders = useDerived(() => entries(app), model, [time]);
  if (!world.pops.length) return <Empty>The log does not say which PoPs there are yet.</Empty>;
  const big = world.pops.length > 40;

  return (
    <div className="view map">
      <div className="network-frame">
      <svg
        ref={drawing}
        className="network"
        style={{ aspectRatio: `${plan.width} / ${plan.height}` }}
        role="group"
        aria-label="Map of the network"
        viewBox={`${zoom.x} ${zoom.y} ${plan.width / zoom.k} ${plan.height / zoom.k}`}
        preserveAspectRatio="xMidYMid meet"
        onWheel={(event) => {
          if (!event.ctrlKey && !event.metaKey && !big) return;
          const k = Math.min(12, Math.max(1, zoom.k * Math.exp(-event.deltaY / 400)));
          const box = event.currentTarget.getBoundingClientRect();
          const px = (event.clientX - box.left) / box.width;
          const py = (event.clientY - box.top) / box.height;
          setZoom({ k, x: k === 1 ? 0 : zoom.x + px * (plan.width / zoom.k - plan.width / k), y: k === 1 ? 0 : zoom.y + py * (plan.height / zoom.k - plan.height / k) });
        }}
        onPointerDown={(event) => {
          if (zoom.k > 1) drag.current = { x: event.clientX, y: event.clientY };
        }}
        onPointerUp={() => {
          drag.current = null;
        }}
        onPointerMove={(event) => {
          const from = drag.current;
          if (!from) return;
          const scale = plan.width / zoom.k / event.currentTarget.getBoundingClientRect().width;
          setZoom({ ...zoom, x: zoom.x - (event.clientX - from.x) * scale, y: zoom.y - (event.clientY - from.y) * scale });
          drag.current = { x: event.clientX, y: event.clientY };
        }}
      >
        {world.links.map((link) => (
          <Link key={`${link.a}-${link.b}`} app={app} link={link} plan={plan} busiest={busiest(load, link)} cut={cuts.get(`${link.a}>${link.b}`) ?? cuts.get(`${link.b}>${link.a}`)} sample={sampled} big={big} />
        ))}
        {world.hosts.map((host) => (
          <HostLink key={host.name} from={plan.pops.get(host.at)} to={plan.hosts.get(host.name)} share={load.get(`${host.at}>${host.name}`)?.share ?? 0} />
        ))}
        {chains.map((life) => (
          <ChainPath key={life.begun.id} app={app} life={life} plan={plan} />
        ))}
        {senders.map((entry) => (
          <Entry key={`${entry.pop} ${entry.target}`} app={app} entry={entry} plan={plan} />
        ))}
        {world.pops.map((pop) => (
          <Pop
            key={pop.name}
            app={app}
            name={pop.name}
            point={plan.pops.get(pop.name) as Point}
            functions={functions.get(pop.name) ?? NONE}
            downloads={downloads.get(pop.name) ?? NONE}
            measures={measures.get(pop.name) ?? NONE}
            standing={trust.standing(pop.name, time)?.value ?? ""}
            standingEvent={trust.standing(pop.name, time)?.event}
            agent={agents.get(pop.name)}
            dead={agents.get(pop.name)?.ended !== undefined && (agents.get(pop.name)?.ended?.time ?? 0) <= time}
            big={big && zoom.k < 2.5}
          />
        ))}
        {world.hosts.map((host) => {
          const point = plan.hosts.get(host.name);
          if (!point) return null;
          const state = health(world, host, time);
          return (
            <g key={host.name} transform={`translate(${point.x} ${point.y})`} {...shapeFact(app, state.sample?.event, `${host.name}, ${host.address}: ${state.sentence}`)}>
              <title>{`${host.name} ${host.address}: ${state.sentence}`}</title>
              <rect className={`host ${state.state}`} x={-13} y={-11} width={26} height={22} rx={4} />
              <text className="host-sign" y={4.5} textAnchor="middle">{{ well: "✓", held: "◆", hurt: "!", unknown: "·" }[state.state]}</text>
              {!big && <text className="name small" y={25} textAnchor="middle">{cut(host.name, 14)}</text>}
            </g>
          );
        })}
      </svg>
      </div>
      <Capacity />
      <MapLegend loops={useMemo(() => world.agents.at(time).filter((life) => !plan.pops.has(life.key)), [world, time, plan])} />
    </div>
  );
}

const NONE: Life[] = [];
const cut = (name: string, most: number) => (name.length > most ? `${name.slice(0, most - 1)}…` : name);

function byPop(lives: Life[]): Map<string, Life[]> {
  const found = new Map<string, Life[]>();
  for (const life of lives) push(found, text(life.begun.data, "pop"), life);
  return found;
}

const loadClass = (share: number) => (share > 0.9 ? "full" : share > 0.6 ? "high" : share > 0.02 ? "some" : "idle");

type Load = { rate: number; share: number };

const busiest = (load: Map<string, Load>, link: LinkInfo): Load | undefined => {
  const there = load.get(`${link.a}>${link.b}`);
  const back = load.get(`${link.b}>${link.a}`);
  return (there?.share ?? 0) >= (back?.share ?? 0) ? there : back;
};

/** Whether a part of the map looks the same: `app` counts only by what is selected. */
function same<P extends { app: App }>(before: P, after: P): boolean {
  const equal = (a: unknown, b: unknown) =>
    a === b || (Array.isArray(a) && Array.isArray(b) && a.length === b.length && a.every((each, at) => each === b[at]));
  return (
    before.app.place.selected === after.app.place.selected &&
    (Object.keys(after) as (keyof P)[]).every((key) => key === "app" || equal(before[key], after[key]))
  );
}

const Link = memo(function Link({ app, link, plan, busiest, cut: down, sample, big }: { app: App; link: LinkInfo; plan: Layout; busiest?: Load; cut?: Life; sample?: LogEvent; big: boolean }) {
  const a = plan.pops.get(link.a);
  const b = plan.pops.get(link.b);
  if (!a || !b) return null;
  const share = busiest?.share ?? 0;
  const words = down ? `${link.a} – ${link.b} is down` : `${link.a} – ${link.b}: ${figure(busiest?.rate ?? 0)} of ${figure(link.bandwidth)} MB/s (${percent(share)}), ${figure(link.latency)} ms`;
  return (
    <g {...shapeFact(app, down?.begun ?? sample, words)} tabIndex={big ? -1 : 0}>
      <title>{words}</title>
      <line className="hit" x1={a.x} y1={a.y} x2={b.x} y2={b.y} />
      <line className={`link ${down ? "down" : loadClass(share)}`} x1={a.x} y1={a.y} x2={b.x} y2={b.y} strokeWidth={2 + 7 * Math.min(1, share)} />
      {!big && share > 0.02 && (
        <text className="rate" x={(a.x + b.x) / 2} y={(a.y + b.y) / 2 - 6} textAnchor="middle">{percent(share)}</text>
      )}
      {down && <text className="rate" x={(a.x + b.x) / 2} y={(a.y + b.y) / 2 + 5} textAnchor="middle">✕</text>}
    </g>
  );
}, same);

function HostLink({ from, to, share }: { from?: Point; to?: Point; share: number }) {
  if (!from || !to) return null;
  return <line className={`link ${loadClass(share)}`} x1={from.x} y1={from.y} x2={to.x} y2={to.y} strokeWidth={1.5 + 6 * Math.min(1, share)} />;
}

function ChainPath({ app, life, plan }: { app: App; life: Life; plan: Layout }) {
  const points = names(life.begun.data, "path").map((pop) => plan.pops.get(pop)).filter((p): p is Point => !!p);
  if (points.length < 2) return null;
  const d = `M${points.map((p) => `${p.x + 5} ${p.y + 7}`).join("L")}`;
  return (
    <g {...shapeFact(app, life.begun, plain(life.begun.text))}>
      <title>{plain(life.begun.text)}</title>
      <path className={`chain-path ${text(life.begun.data, "purpose")}`} d={d} />
    </g>
  );
}

interface EntryOf {
  pop: string;
  target: string;
  count: number;
  event: LogEvent;
  /** The measure that drops it, at the end of its way. */
  dropped?: Life;
  way: string[];
}

/** Where attacks enter, and how far they get. */
function entries({ model, time }: App): EntryOf[] {
  const { world } = model;
  const found = new Map<string, EntryOf>();
  const measures = world.measures.at(time);
  const down = new Set(world.cuts.at(time).map((life) => life.key));
  for (const { group, event } of world.senders(time)) {
    if (!group.malicious) continue;
    for (const pop of group.at)
      for (const target of group.targets) {
        const host = world.hosts.find((each) => each.name === target || each.address === target);
        if (!host) continue;
        const key = `${pop} ${host.name}`;
        const known = found.get(key);
        if (known) {
          known.count += group.count / group.at.length;
          continue;
        }
        const dropped = measures.find((life) => {
          const data = life.begun.data;
          const here = text(data, "entry") === pop || (text(data, "pop") === pop && names(data, "sources").length > 0);
          return here && text(data, "target") === host.address && number(data, "rate_mb_s", 1) === 0;
        });
        const end = dropped ? text(dropped.begun.data, "pop") : host.at;
        found.set(key, { pop, target: host.name, count: group.count / group.at.length, event, dropped, way: shortest(world.links, pop, end, down) });
      }
  }
  return [...found.values()];
}

function Entry({ app, entry, plan }: { app: App; entry: EntryOf; plan: Layout }) {
  const pop = plan.pops.get(entry.pop);
  const host = plan.hosts.get(entry.target);
  if (!pop) return null;
  const outside = { x: pop.x - 62, y: pop.y - 44 };
  const way = entry.way.map((name) => plan.pops.get(name)).filter((p): p is Point => !!p);
  const points = [outside, pop, ...way.slice(1), ...(way.length && host && !entry.dropped ? [host] : [])];
  const stop = way.at(-1) ?? pop;
  const count = Math.max(1, Math.round(entry.count));
  const words = `${counted(count, "attacker")} of ${entry.target} at ${entry.pop}${entry.dropped ? `, dropped at ${text(entry.dropped.begun.data, "pop")}` : ""}`;
  return (
    <g {...shapeFact(app, entry.dropped?.begun ?? entry.event, words)}>
      <title>{words}</title>
      <path className={`attack-path${entry.dropped ? " dropped" : ""}`} d={`M${points.map((p) => `${p.x} ${p.y}`).join("L")}`} />
      <path className="attacker" d={`M${outside.x} ${outside.y - 12}l11 19h-22z`} />
      <text className="attacker-count" x={outside.x} y={outside.y + 3.5} textAnchor="middle">{count}</text>
      {entry.dropped && <path className="shield" d={`M${stop.x - 27} ${stop.y - 28}l9 3.5v6c0 5-3.5 8.5-9 10.5c-5.5-2-9-5.5-9-10.5v-6z`} />}
    </g>
  );
}

interface PopProps {
  app: App;
  name: string;
  point: Point;
  functions: Life[];
  downloads: Life[];
  measures: Life[];
  standing: string;
  standingEvent?: LogEvent;
  agent?: Life;
  dead: boolean;
  big: boolean;
}

const Pop = memo(function Pop({ app, name, point, functions, downloads, measures, standing, standingEvent, agent, dead: down, big }: PopProps) {
  const dead = down ? agent?.ended : undefined;
  const state = dead ? "dead" : standing || "unattested";
  const words = `${name}: ${dead ? "its agent is down" : standing ? `its agent is ${standing}` : "its agent is not attested"}, ${counted(functions.length, "function")}, ${counted(measures.length, "measure")}`;
  const groups = new Map<string, Life[]>();
  for (const life of functions) push(groups, text(life.begun.data, "vnf"), life);
  const chips = [...groups].slice(0, MOST_CHIPS);
  return (
    <g transform={`translate(${point.x} ${point.y})`}>
      <g {...shapeFact(app, dead ?? standingEvent ?? agent?.begun, words)}>
        <title>{words}</title>
        <circle className={`ring ${state}`} r={R} />
        <circle className={`pop ${measures.length ? "guarding" : ""} ${dead ? "dead" : ""}`} r={R - 5.5} />
        {!big && <text className="name" y={4.5} textAnchor="middle">{cut(name, 7)}</text>}
        {state === "quarantined" && <text className="ring-sign" x={17} y={-14}>✕</text>}
        {state === "trusted" && !big && <text className="ring-sign trusted" x={15} y={-15}>✓</text>}
      </g>
      {!big &&
        chips.map(([vnf, lives], at) => {
          const own = measures.filter((m) => lives.some((life) => life.key === text(m.begun.data, "instance")));
          const label = `${cut(SHORT[vnf] ?? vnf, 11)}${lives.length > 1 ? ` ×${lives.length}` : ""}${own.length ? ` ■${own.length}` : ""}`;
          const wide = 12 + 6.1 * label.length;
          return (
            <g key={vnf} transform={`translate(0 ${R + 7 + 17 * at})`} {...shapeFact(app, (own.at(-1) ?? lives.at(-1) ?? lives[0]).begun, `${counted(lives.length, vnf)} at ${name}, ${counted(own.length, "measure")}`)}>
              <title>{`${vnf} at ${name} since ${clock(lives[0].time)}, ${counted(own.length, "measure")} in force`}</title>
              <rect className={`chip ${own.length ? "acting" : ""}`} x={-wide / 2} y={0} width={wide} height={15} rx={7.5} />
              <text className={`chip-name ${own.length ? "acting" : ""}`} y={11} textAnchor="middle">{label}</text>
            </g>
          );
        })}
      {downloads.length > 0 && (
        <g {...shapeFact(app, downloads[0].begun, `${counted(downloads.length, "function")} on the way to ${name}`)}>
          <title>{`${counted(downloads.length, "function")} on the way to ${name}`}</title>
          <circle className="downloading" r={R + 5} />
        </g>
      )}
    </g>
  );
}, same);

const KINDS = [["cores", "cores", ""], ["memory_gb", "memory", "GB"], ["disk_gb", "disk", "GB"]] as const;

/** What is taken of each PoP at this instant, of the PoPs where anything is. */
function Capacity() {
  const app = useApp();
  const { model, time } = app;
  const rows = useDerived(() => [...model.world.free].flatMap(([pop, steps]) => {
    const step = steps[lastAt(steps, time)];
    if (!step) return [];
    const [free, total] = [table(step.event.data, "free"), table(step.event.data, "total")];
    const kinds = KINDS.map(([key, name, unit]) => ({ name, unit, total: number(total, key), taken: Math.max(0, number(total, key) - number(free, key)) }));
    return kinds.some((kind) => kind.taken > 1e-9) ? [{ pop, event: step.event, kinds }] : [];
  }).sort((a, b) => natural(a.pop, b.pop)), model, [time]);
  if (!rows.length) return null;
  return (
    <Section title="Taken at the PoPs" note={`${rows.length} of ${model.world.pops.length} PoPs`}>
      <ul className="capacity">
        {rows.slice(0, 60).map(({ pop, event, kinds }) => (
          <li key={pop}>
            <Fact of={event}>{pop}</Fact>
            {kinds.map((kind) => (
              <span key={kind.name} className="meter">
                <span className="sub">{kind.name} {figure(kind.taken)} of {figure(kind.total)} {kind.unit}</span>
                <i style={{ width: `${kind.total ? Math.min(100, (100 * kind.taken) / kind.total) : 0}%` }} />
              </span>
            ))}
          </li>
        ))}
      </ul>
    </Section>
  );
}

function MapLegend({ loops }: { loops: Life[] }) {
  const app = useApp();
  return (
    <div className="map-legend">
      {loops.length > 0 && (
        <p>
          Agents without a PoP of their own:{" "}
          {loops.map((life) => (
            <Fact key={life.key} of={life.begun} className="tag">
              {life.key}
            </Fact>
          ))}
        </p>
      )}
      <ul className="legend">
        {app.model.trust.agents.length > 0 && (
          <>
            <li className="key ring-trusted">trusted</li>
            <li className="key ring-silent">silent</li>
            <li className="key ring-quarantined">not trusted</li>
          </>
        )}
        <li className="key ring-guarding">holds measures (■)</li>
        <li className="key load-some">load to 60 %</li>
        <li className="key load-high">to 90 %</li>
        <li className="key load-full">full</li>
        <li className="key attack">attack</li>
      </ul>
    </div>
  );
}
