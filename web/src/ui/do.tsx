/** Do: services, functions, steering, agents and limits; each with a look at what would change. */

import { useEffect, useState } from "react";
import { act, foresee, onPreview, ownerOf, type Preview, preview, release } from "./actions";
import { ask } from "../server";
import { useApp, useDerived, useVersion } from "../state";
import { natural, text } from "../store";
import { counted } from "../words";
import { Empty, Fact, Icon, Say, Section } from "./parts";

export function DoView() {
  const app = useApp();
  const { session, model, place } = app;
  const { world } = model;
  const measures = useDerived(() => world.measures.at(app.time), model, [app.time]);
  const agents = useDerived(() => world.agents.at(app.time).map(({ key, begun }) => ({ agent: key, pop: text(begun.data, "pop") })).sort((a, b) => natural(a.agent, b.agent)), model, [app.time]);
  const paused = useDerived(() => new Map(world.paused.at(app.time).map((life) => [life.key, life.begun])), model, [app.time]);
  if (session.mode !== "live")
    return (
      <div className="view">
        <Empty>
          {session.mode === "report" ? "This page is a report: it holds a log, and reaches no agent." : "This is a recorded run: what happened cannot be changed."} To act on running agents, start <code>phalanx run SCENARIO --realtime 1 --console</code>, or <code>phalanx console --domain DIR</code> for a domain.
        </Empty>
      </div>
    );
  if (session.role !== "operator")
    return (
      <div className="view">
        <Empty>You are logged in as a viewer, who may look at everything and change nothing. The token of an operator allows more.</Empty>
      </div>
    );
  const past = place.time !== undefined;
  const may = (name: string) => session.actions.includes(name);
  return (
    <div className="view do">
      {past && (
        <p className="note warn">
          You look at the past; what you do happens now.{" "}
          <button type="button" className="quiet" onClick={() => app.go({ time: undefined })}>
            Go live
          </button>
        </p>
      )}
      <div className="columns">
        {may("release") && (
          <Section title="Release a measure" note={`${measures.length} in force`}>
            {!measures.length && <Empty>No measure is in force.</Empty>}
            <ul className="cards">
              {measures.map((life) => (
                <li key={life.begun.id}>
                  <span className="card-main">
                    <Say text={text(life.begun.data, "effect")} capital />
                    <span className="sub">at {text(life.begun.data, "pop")}</span>
                  </span>
                  <button type="button" className="undo" onClick={() => release(app, life)}>
                    Release
                  </button>
                </li>
              ))}
            </ul>
          </Section>
        )}
        {(may("drain") || may("pause")) && (
          <Section title="Agents" note="running">
            <ul className="cards">
              {agents.map(({ agent, pop }) => (
                <li key={agent}>
                  <span className="card-main">
                    <span>
                      <b>{agent}</b> {paused.has(agent) && <Fact of={paused.get(agent)}>is paused</Fact>}
                    </span>
                    <span className="sub">{pop && `at ${pop}: `}{counted(measures.filter((life) => ownerOf(life) === agent).length, "measure")}, {counted(world.instances.at(app.time).filter((life) => text(life.begun.data, "pop") === pop).length, "function")}</span>
                  </span>
                  <span className="buttons">
                    {may("pause") && (
                      <>
                        <button type="button" className="quiet" onClick={() => preview({ title: `Pause ${agent}?`, words: [`${agent} takes no new work: it refuses to bid until it is resumed.`, "What it runs and holds stays in force.", "Other agents win what it would have won."], action: "pause", body: { agent, paused: true } })}>
                          Pause
                        </button>
                        <button type="button" className="quiet" onClick={() => preview({ title: `Resume ${agent}?`, words: [`${agent} bids again from the next call on.`], action: "pause", body: { agent, paused: false } })}>
                          Resume
                        </button>
                      </>
                    )}
                    {may("drain") && (
                      <button type="button" className="undo" onClick={() => preview({ title: `Drain ${agent}?`, words: [`${agent} takes no new work, hands over what it runs, and leaves.`, "Its measures are taken over by other agents as far as any has the resources; what none takes ends."], action: "drain", body: { agent } })}>
                        Drain
                      </button>
                    )}
                  </span>
                </li>
              ))}
            </ul>
          </Section>
        )}
        {may("link") && <Links />}
        {may("service") && <Services />}
        {session.previews?.includes("functions") && <PlaceFunction />}
      </div>
    </div>
  );
}

function Links() {
  const { model } = useApp();
  const down = model.world.cuts.at(model.store.end);
  const [chosen, setChosen] = useState(0);
  const { links } = model.world;
  if (!links.length) return null;
  const { a, b } = links[chosen] ?? links[0];
  const link = `${a} – ${b}`;
  const passing = model.world.chains.at(model.store.end).filter((life) => `,${text(life.begun.data, "path")},`.includes(`,${a},${b},`) || `,${text(life.begun.data, "path")},`.includes(`,${b},${a},`));
  const isDown = down.some((life) => life.key === `${a}>${b}` || life.key === `${b}>${a}`);
  const words = isDown
    ? [`Traffic may take ${link} again; agents see it at their next look.`]
    : [`Nothing passes ${link}: traffic takes another way as far as there is one.`, `${passing.length ? `${passing.length} chains pass it` : "No chain of an agent passes it"}; agents look for other paths where theirs breaks.`];
  return (
    <Section title="Steering" note="links of the network">
      <div className="form-row">
        <select aria-label="Link" value={chosen} onChange={(event) => setChosen(Number(event.target.value))}>
          {links.map((each, at) => (
            <option key={`${each.a} ${each.b}`} value={at}>{`${each.a} – ${each.b}`}</option>
          ))}
        </select>
        <button type="button" className="undo" onClick={() => preview({ title: isDown ? `Use ${link} again?` : `Take ${link} out of use?`, words, action: "link", body: { a, b, up: isDown } })}>
          {isDown ? "Use again" : "Take out of use"}
        </button>
      </div>
    </Section>
  );
}

/** Where a function would run now: what every agent would bid, by the state of this moment. */
function PlaceFunction() {
  const app = useApp();
  const { model } = app;
  const called = useDerived(() => [...new Set(model.store.of("auction.called").map((event) => text(event.data, "goal")))].slice(-40), model, []);
  const [goal, setGoal] = useState("");
  const [at, setAt] = useState("");
  const [traffic, setTraffic] = useState("1");
  const [said, setSaid] = useState<{ words?: string[]; detail?: string }>({});
  const pops = model.world.pops.map((pop) => pop.name).sort(natural);
  const look = () => void foresee(app, "functions", { goal, at: at || pops[0], traffic_mb_s: Number(traffic) || 0 }).then(setSaid);
  return (
    <Section title="Place a function" note="what every agent would bid now, the best first: the least utility wins">
      <form
        className="form-row"
        onSubmit={(event) => {
          event.preventDefault();
          look();
        }}
      >
        <label>
          Goal
          <input value={goal} list="goals" required placeholder="linkRateLimited" onChange={(event) => setGoal(event.target.value)} />
          <datalist id="goals">
            {called.map((each) => (
              <option key={each} value={each} />
            ))}
          </datalist>
        </label>
        <label>
          Traffic is taken at
          <select value={at} onChange={(event) => setAt(event.target.value)}>
            {pops.map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </label>
        <label>
          MB/s
          <input type="number" min="0" step="any" value={traffic} onChange={(event) => setTraffic(event.target.value)} />
        </label>
        <button type="submit">Look at it</button>
      </form>
      {said.words && (
        <ol className="foreseen" role="status">
          {said.words.map((words) => (
            <li key={words}>
              <Say text={words} />
            </li>
          ))}
        </ol>
      )}
      {said.detail && (
        <p role="alert" className="problem">
          {said.detail}
        </p>
      )}
    </Section>
  );
}

interface ServiceItem {
  name: string;
  since: number;
  event: string;
  kind: string;
  data: { revision?: number; agents?: Record<string, string> };
}

/** Services of the domain: descriptors come as files, and what they would change is shown first. */
function Services() {
  const app = useApp();
  const [services, setServices] = useState<ServiceItem[]>([]);
  const [files, setFiles] = useState<Record<string, string>>({});
  const [without, setWithout] = useState("");
  const [problem, setProblem] = useState("");
  const version = useVersion(app.model);
  const changes = app.model.store.events.length && ["requested", "deployed", "reconfigured", "removed", "rolled_back"].reduce((n, what) => n + app.model.store.of(`service.${what}`).length, 0);
  useEffect(() => {
    void ask<{ items: ServiceItem[] }>("api/services").then(({ said }) => said.items && setServices(said.items));
  }, [changes, version === 0]);
  const look = async (change: string, name: string) => {
    setProblem("");
    const body = { change, name, files, without: without.split(/[\s,]+/).filter(Boolean) };
    const said = await foresee(app, "services", body);
    if (said.detail !== undefined) setProblem(said.detail);
    else preview({ title: `${change[0].toUpperCase()}${change.slice(1)} ${name || "the service"}?`, words: said.words ?? [], action: "service", body });
  };
  return (
    <Section title="Services" note="deploy, reconfigure, remove; add a VNF's descriptor">
      {!services.length && <Empty>No service is deployed.</Empty>}
      <ul className="cards">
        {services.map((service) => (
          <li key={service.name}>
            <span className="card-main">
              <Fact of={service.event}>{service.name}</Fact>
              <span className="sub">{service.kind.replace("service.", "").replace("_", " ")}, change {service.data.revision ?? "?"}{service.data.agents && `; ${Object.entries(service.data.agents).map(([agent, site]) => `${agent} at ${site}`).join(", ")}`}</span>
            </span>
            <span className="buttons">
              <button type="button" className="quiet" onClick={() => void look("reconfigure", service.name)}>
                Reconfigure
              </button>
              <button type="button" className="undo" onClick={() => void look("remove", service.name)}>
                Remove
              </button>
            </span>
          </li>
        ))}
      </ul>
      <form
        className="form-row"
        onSubmit={(event) => {
          event.preventDefault();
          void look("deploy", "");
        }}
      >
        <label>
          Descriptors: NSD, VNFDs, sites.yaml, request.yaml
          <input
            type="file"
            multiple
            accept=".yaml"
            onChange={(event) => {
              const chosen = [...(event.target.files ?? [])];
              void Promise.all(chosen.map(async (file) => [file.name, await file.text()] as const)).then((all) => setFiles(Object.fromEntries(all)));
            }}
          />
        </label>
        <label>
          Sites without agents
          <input value={without} onChange={(event) => setWithout(event.target.value)} placeholder="none" />
        </label>
        <button type="submit">Look at it</button>
      </form>
      <p className="note">To reconfigure, choose only the files that change; a VNFD alone is added to those that are there.</p>
      {problem && (
        <p role="alert" className="problem">
          {problem}
        </p>
      )}
    </Section>
  );
}

/** The dialog with what would change; nothing is done before it is confirmed. */
export function PreviewDialog() {
  const app = useApp();
  const [asked, setAsked] = useState<Preview>();
  const [said, setSaid] = useState<{ words: string; bad: boolean }>();
  const [busy, setBusy] = useState(false);
  useEffect(() => {
    onPreview((preview) => {
      setAsked(preview);
      setSaid(undefined);
    });
  }, []);
  if (!asked) return null;
  const close = () => setAsked(undefined);
  return (
    <div className="backdrop" onClick={close}>
      <div
        role="dialog"
        aria-modal="true"
        aria-label={asked.title}
        className="dialog"
        onClick={(event) => event.stopPropagation()}
        onKeyDown={(event) => {
          if (event.key === "Escape") close();
        }}
      >
        <header>
          <h2>{asked.title}</h2>
          <button type="button" className="icon-button" aria-label="Close" onClick={close}>
            <Icon name="close" />
          </button>
        </header>
        <p className="note">What would change:</p>
        <ul>
          {asked.words.map((words) => (
            <li key={words}>
              <Say text={words} />
            </li>
          ))}
        </ul>
        {said && (
          <p role="status" className={said.bad ? "problem" : "good"}>
            {said.words}
          </p>
        )}
        <div className="buttons">
          {!said || said.bad ? (
            <>
              <button type="button" className="quiet" onClick={close}>
                Leave it
              </button>
              <button
                type="button"
                className="undo"
                autoFocus
                disabled={busy}
                data-confirm
                onClick={() => {
                  setBusy(true);
                  act(app, asked)
                    .then((words) => setSaid({ words, bad: false }))
                    .catch((error: Error) => setSaid({ words: error.message, bad: true }))
                    .finally(() => setBusy(false));
                }}
              >
                Do it
              </button>
            </>
          ) : (
            <button type="button" autoFocus onClick={close}>
              Close
            </button>
          )}
        </div>
      </div>
    </div>
  );
}
