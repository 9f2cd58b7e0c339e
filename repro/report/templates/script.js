"use strict";
(() => {
  const data = JSON.parse(document.getElementById("evidence").textContent);
  const dialog = document.getElementById("why");
  const text = (index) => data.texts[index];

  // Text nodes alone: nothing from the data is ever parsed as HTML.
  const make = (name, ...children) => {
    const element = document.createElement(name);
    element.append(...children);
    return element;
  };
  const withClass = (name, element) => {
    element.className = name;
    return element;
  };
  const link = (target, label) => {
    const element = make("a", label);
    element.href = `#${target}`;
    return element;
  };
  const pairs = (entries) => {
    const list = make("dl");
    for (const [name, ...value] of entries) list.append(make("dt", name), make("dd", ...value));
    return list;
  };
  const listOf = (items) => make("ul", ...items.map((item) => make("li", ...item)));

  // --- evidence ------------------------------------------------------------------------------

  const DEEPEST = 8;  // of runs that start from another

  const run = (index, shown, depth = 0) => {
    const [id, price, curve, mark, ...found] = data.runs[index];
    const details = make("details");
    const number = found.length ? ` seed ${found[0]} ` : " ";
    details.append(make("summary", make("b", shown), number, make("code", id)));
    if (!found.length) {
      details.append(make("p", price ? `Not run. It would take ${price}.` : "Not run."));
      return details;
    }
    const [, folder, sha256, about, site, before, patch, state] = found;
    const rows = [["state", text(state)], ["files", make("code", `${text(folder)}/${id}`)]];
    if (sha256) rows.push(["SHA-256", make("code", sha256)]);
    for (const [name, what] of about) rows.push([text(name).replaceAll("_", " "), text(what)]);
    if (site) rows.push(["computed at", site]);
    if (patch) rows.push(["changes of the code", make("code", patch)]);
    if (mark >= 0) {
      const [today, waiver] = data.outdated[mark];
      const because = waiver ? `; kept because: ${waiver}` : "";
      rows.push(["today", link(`outdated-${mark}`, today), because]);
    }
    if (curve >= 0) rows.push(["training", link(`curve-${curve}`, "its curve")]);
    details.append(pairs(rows));
    if (before >= 0 && depth < DEEPEST) details.append(run(before, "starts from", depth + 1));
    return details;
  };

  const evidence = (cell) => {
    const [place, , unit, value, paper, formula, seeds, recipe, claims, command] = cell;
    const parts = [withClass("value", make("p", value))];
    const about = [["measured", text(unit)], ["value", formula]];
    if (paper) about.push(["the paper", paper]);
    parts.push(pairs(about));
    parts.push(make("h3", seeds.length === 1 ? "Run" : "Runs"));
    parts.push(...seeds.map(([index, status, shown]) => run(index, shown || text(status))));
    const values = data.recipes[recipe].map((index) => data.values[index]);
    const ours = values.filter((each) => each[3]);
    const line = ([name, chosen, source]) => [make("code", `${name} = ${chosen}`), ` ${source}`];
    parts.push(make("h3", "Choices"));
    if (ours.length) parts.push(listOf(ours.map(line)));
    else parts.push(make("p", "No value of its own recipe is our choice; the decisions of the item apply."));
    const others = values.filter((each) => !each[3]);
    if (others.length) {
      const summary = make("summary", `${others.length} values from the paper and other sources`);
      parts.push(make("details", summary, listOf(others.map(line))));
    }
    const ledger = document.getElementById(`decisions-${place[0]}`);
    if (ledger) parts.push(make("p", link(ledger.id, "All decisions of this item")));
    if (claims.length) {
      parts.push(make("h3", "Claims"), listOf(claims.map((index) => {
        const [verdict, tested] = data.claims[index];
        return [withClass("word", make("span", text(verdict))), " ",
                link(`claim-${index}`, tested)];
      })));
    }
    parts.push(make("h3", "To repeat it"), withClass("command", make("pre", make("code", command))));
    return parts;
  };

  const addressOf = (cell) => `why/${text(cell[1])}/${cell[0].join("/")}`;
  const byAddress = new Map(data.cells.map((cell) => [addressOf(cell), cell]));

  const open = (cell) => {
    const [item, ...place] = cell[0];
    document.getElementById("why-title").textContent = place.join(", ");
    const content = document.getElementById("why-content");
    const where = withClass("fine", make("p", `${item}, ${text(cell[1])} scale`));
    content.replaceChildren(where, ...evidence(cell));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    history.replaceState(null, "", `#${encodeURI(addressOf(cell))}`);
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-cell]");
    if (button) open(data.cells[Number(button.dataset.cell)]);
    if (event.target === dialog || event.target.closest("#close")) dialog.close();
  });
  dialog.addEventListener("close", () => {
    if (location.hash.startsWith("#why/")) {
      history.replaceState(null, "", location.pathname + location.search);
    }
  });

  // --- links ---------------------------------------------------------------------------------

  // A link into what is folded or filtered out shows it.
  const follow = () => {
    const name = decodeURI(location.hash.slice(1));
    if (byAddress.has(name)) {
      open(byAddress.get(name));
      return;
    }
    const target = name ? document.getElementById(name) : null;
    if (!target) return;
    if (dialog.open) dialog.close();
    if (target.closest("[hidden]")) {
      document.getElementById("filters").reset();
      filter();
    }
    for (let at = target; at; at = at.parentElement) {
      if (at.tagName === "DETAILS") at.open = true;
    }
    target.scrollIntoView();
    if (target.tabIndex === -1) target.focus({preventScroll: true});
  };
  window.addEventListener("hashchange", follow);
  document.addEventListener("click", (event) => {
    const anchor = event.target.closest('a[href^="#"]');
    if (anchor && anchor.getAttribute("href") === location.hash) follow();
  });

  // --- filters -------------------------------------------------------------------------------

  const filter = () => {
    const chosen = new FormData(document.getElementById("filters"));
    const [verdict, scale] = [chosen.get("verdict"), chosen.get("scale")];
    let shown = 0;
    let all = 0;
    for (const claim of document.querySelectorAll(".claim")) {
      let visible = 0;
      for (const test of claim.querySelectorAll("li[data-verdict]")) {
        const fits = (!verdict || test.dataset.verdict === verdict)
          && (!scale || claim.dataset.scale === scale);
        test.hidden = !fits;
        visible += fits;
        all += 1;
      }
      claim.hidden = !visible;
      shown += visible;
    }
    document.getElementById("shown").textContent = `${shown} of ${all} tests shown`;
  };
  document.getElementById("filters").addEventListener("change", filter);
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());

  // --- paper and phones ----------------------------------------------------------------------

  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("main details:not([open])")];
    for (const details of closed) details.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const details of closed) details.open = false;
  });
  if (window.matchMedia("(max-width: 68rem)").matches) {
    document.getElementById("contents").open = false;
  }

  filter();
  follow();
})();
