/** The login: a token, which the server printed when it was started. */

import { useState } from "react";

export function Login({ done }: { done: () => void }) {
  const [token, setToken] = useState("");
  const [problem, setProblem] = useState("");
  return (
    <main className="login">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void fetch("api/login", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ token: token.trim() }) }).then(async (answer) => {
            if (answer.ok) done();
            else setProblem(((await answer.json().catch(() => ({}))) as { detail?: string }).detail ?? "the server did not answer");
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
