// names for fields that the library leaves without: screen readers say them
new MutationObserver(() => {
  const head = ["on", "name", "curve", "price", "owner"];
  document.querySelectorAll("#lines tbody tr").forEach((line, number) =>
    line.querySelectorAll("input").forEach((field, place) =>
      field.setAttribute("aria-label", `${head[place]} of provider ${number + 1}`)));
  document.querySelectorAll(".number").forEach(pair => {
    const slider = pair.querySelector("[role=slider]");
    if (slider) slider.setAttribute("aria-label", pair.previousElementSibling.textContent);
  });
}).observe(document.documentElement, {childList: true, subtree: true});
