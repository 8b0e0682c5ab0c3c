// Without scripts every sample is shown; with them, the chosen ones.
document.querySelectorAll(".controls").forEach(controls => { controls.hidden = false; });
const choices = [...document.querySelectorAll(".controls select")];
const cards = [...document.querySelectorAll(".samples")];
const show = () => {
  cards.forEach(card => {
    card.hidden = choices.some(choice => choice.value && card.dataset[choice.name] !== choice.value);
  });
  document.querySelectorAll(".none").forEach(note => { note.hidden = cards.some(card => !card.hidden); });
};
choices.forEach(choice => choice.addEventListener("change", show));
show();
