// Keeps the live part of a page up to date, and asks before what can't be undone.
"use strict";

const live = document.querySelector("[data-live]");
const lost = document.getElementById("lost");
let events = null;

function open() {
  const url = new URL(window.location.href);
  url.hash = "";
  url.searchParams.set("live", "1");
  events = new EventSource(url);
  events.onopen = () => { lost.hidden = true; };
  events.onerror = () => {
    lost.hidden = false;
    // A browser gives up on a reply that is no stream (the key is gone, the server was replaced): ask again later.
    if (events !== null && events.readyState === EventSource.CLOSED) {
      close();
      window.setTimeout(follow, 5000);
    }
  };
  events.onmessage = (event) => {
    Idiomorph.morph(live, JSON.parse(event.data), { morphStyle: "innerHTML" });
    live.dispatchEvent(new Event("changed"));
  };
}

function close() {
  if (events !== null) {
    events.close();
    events = null;
  }
}

// A browser opens few connections to a server: pages that nobody looks at hold none.
function follow() {
  if (document.hidden) {
    close();
  } else if (events === null) {
    open();
  }
}

// A page whose template has nothing live has an empty element for it.
if (live !== null && live.childElementCount > 0) {
  document.addEventListener("visibilitychange", follow);
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", follow);
  follow();
}

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question !== undefined && !window.confirm(question)) {
    event.preventDefault();
  }
});
