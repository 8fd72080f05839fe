// Help of the controls of a form, and what is wrong with a value: lines below a control describe it, for a screen reader too.

let described = 0; // lines so far, for names that differ

/** Tie each line of help in a form to the control above it. */
export function describeAll(form) {
  for (const field of form.querySelectorAll(".field")) {
    const control = field.querySelector("input, select");
    const help = field.querySelector(".help");
    if (!control || !help) continue;
    const said = field.querySelector(".said");
    for (const line of [help, said]) {
      if (!line || line.id) continue;
      described += 1;
      line.id = `sastc-help-${described}`;
    }
    control.setAttribute("aria-describedby", said ? `${said.id} ${help.id}` : help.id);
    control.setAttribute("aria-invalid", String(Boolean(said)));
  }
}

/** Make the heads of drawers what they look like: buttons, which the keyboard reaches too. */
export function pressable(form) {
  for (const head of form.querySelectorAll(".jupyter-widget-Collapse-header")) {
    const open = head.parentElement?.classList.contains("jupyter-widget-Collapse-open");
    head.setAttribute("aria-expanded", String(Boolean(open)));
    head.setAttribute("aria-label", head.textContent.trim()); // without the letter that its arrow is made of
    if (head.getAttribute("tabindex")) continue;
    for (const [name, value] of Object.entries({ tabindex: "0", role: "button", "data-lm-suppress-shortcuts": "true" })) head.setAttribute(name, value);
    head.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      head.click();
    });
  }
}

function render({ el }) {
  let ended = false;
  const look = () => {
    const form = el.closest(".sastc-launch");
    if (!form) return;
    describeAll(form);
    pressable(form);
  };
  const observer = new MutationObserver(look);
  const begin = () => {
    const form = el.closest(".sastc-launch");
    if (form) {
      observer.observe(form, { childList: true, subtree: true, attributeFilter: ["class"] });
      look();
    } else if (!ended) requestAnimationFrame(begin); // the form is not on the page yet
  };
  begin();
  return () => {
    ended = true;
    observer.disconnect();
  };
}

export default { render };
