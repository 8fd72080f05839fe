// Help of the controls of a form: the line that stands below a control describes it, for a screen reader too.

let described = 0; // lines so far, for names that differ

/** Tie each line of help in a form to the control above it. */
export function describeAll(form) {
  for (const field of form.querySelectorAll(".field")) {
    const control = field.querySelector("input, select");
    const help = field.querySelector(".help");
    if (!control || !help) continue;
    if (!help.id) {
      described += 1;
      help.id = `sastc-help-${described}`;
    }
    control.setAttribute("aria-describedby", help.id);
  }
}

function render({ el }) {
  let ended = false;
  const observer = new MutationObserver(() => describeAll(el.closest(".sastc-launch")));
  const begin = () => {
    const form = el.closest(".sastc-launch");
    if (form) {
      observer.observe(form, { childList: true, subtree: true });
      describeAll(form);
    } else if (!ended) requestAnimationFrame(begin); // the form is not on the page yet
  };
  begin();
  return () => {
    ended = true;
    observer.disconnect();
  };
}

export default { render };
