/** The login: a token, which the server printed when it was started. */

import { useState } from "react";
import { ask } from "../server";

export function Login({ done }: { done: () => void }) {
  const [token, setToken] = useState("");
  const [problem, setProblem] = useState("");
  return (
    <main className="login">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void ask("api/login", { token: token.trim() }).then(({ ok, status, said }) => {
            if (ok) done();
            else setProblem(said.detail ?? `the server answered ${status}`);
          });
        }}
      >
        <h1>Phalanx</h1>
        <label>
          Token
          <input type="password" autoComplete="current-password" value={token} onChange={(event) => setToken(event.target.value)} autoFocus required />
        </label>
        <p className="note">
          <code>phalanx console</code> printed it when it started.
        </p>
        {problem && (
          <p role="alert" className="problem">
            {problem}
          </p>
        )}
        <button type="submit">Log in</button>
      </form>
    </main>
  );
}
