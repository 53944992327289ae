// The page of `ctbasis view`: images from the server that served the page, with the token of the page's address.
"use strict";

const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? sessionStorage.getItem("token") ?? "";
if (token) {
  // A reload keeps the token; the address that others may see loses it.
  sessionStorage.setItem("token", token);
  history.replaceState(null, "", location.pathname);
}

async function ask(address) {
  const answer = await fetch(address, { headers: { Authorization: `Bearer ${token}` }, cache: "no-store" });
  if (answer.ok) return answer;
  if (answer.status === 401) throw new Error("The token is missing or wrong. Open the address that ctbasis view printed.");
  const said = await answer.json().catch(() => ({}));
  throw new Error([said.error, said.remedy].filter(Boolean).join("; ") || `the server answered ${answer.status}`);
}

function images(content, count) {
  const values = new Int16Array(content);
  const size = values.length / count;
  return Array.from({ length: count }, (_, pane) => values.subarray(pane * size, (pane + 1) * size));
}

async function start() {
  const study = await (await ask("series")).json();
  const millimetres = study.spacing.map((one) => one.toFixed(2)).join(" × ");
  document.getElementById("facts").textContent =
    `${study.mode} mode, ${study.shape.join(" × ")} voxels of ${millimetres} mm` +
    (study.panes.length < 3 ? "; global mode has no map of sigma" : "");
  study.load = async (plane, index) => {
    const answer = await ask(`images/${plane}/${index}`);
    return images(await answer.arrayBuffer(), study.panes.length);
  };
  window.viewer = new SliceViewer(document.getElementById("viewer"), study);
}

start().catch((error) => (document.getElementById("failure").textContent = error.message));
