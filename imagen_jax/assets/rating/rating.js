// Keys, touch and a large view. Without this file the page works by its form.
"use strict";

const form = document.querySelector("form");
const questions = [...form.querySelectorAll("[data-question]")];
const send = form.querySelector("button[type=submit]");
const large = document.querySelector("dialog");
let active = 0;
let sent = false;

const chosen = (question) => question.querySelector("input:checked");

function show() {
  questions.forEach((q, i) => q.classList.toggle("active", i === active));
  send.disabled = sent || !questions.every(chosen);
}

function answer(question, number) {
  const input = question.querySelectorAll("input")[number];
  if (!input) return;
  input.checked = true;
  active = Math.min(questions.indexOf(question) + 1, questions.length);
  show();
}

form.addEventListener("change", (event) => {
  const question = event.target.closest("[data-question]");
  active = Math.min(questions.indexOf(question) + 1, questions.length);
  show();
});

form.addEventListener("submit", (event) => {
  if (sent) event.preventDefault();
  sent = true;
  show();
});

document.addEventListener("keydown", (event) => {
  if (large.open || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key >= "1" && event.key <= "9" && active < questions.length) {
    answer(questions[active], Number(event.key) - 1);
  } else if (event.key === "Backspace") {
    active = Math.max(active - 1, 0);
    show();
  } else if (event.key === "Enter") {
    if (!send.disabled) form.requestSubmit();
  } else {
    return;
  }
  event.preventDefault();
});

for (const image of document.querySelectorAll(".image")) {
  image.addEventListener("click", () => {
    large.querySelector("img").src = image.querySelector("img").src;
    large.showModal();
  });
}
large.addEventListener("click", () => large.close());

// A page that the browser kept (its Back button) may have been answered since.
window.addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});

show();
