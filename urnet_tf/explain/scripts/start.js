// Which part of the page is shown, and what happens when it opens.

let scrolled = 0; // where the report was left

async function route() {
  const found = /^#\/class\/(\d+)$/.exec(location.hash);
  if (!found) {
    const wasAway = !view.hidden;
    [report.hidden, header.hidden, view.hidden, document.title] = [false, false, true, title];
    if (!wasAway) return;
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    if (target) target.scrollIntoView();
    else scrollTo(0, scrolled);
    return;
  }
  if (view.hidden) scrolled = scrollY;
  const label = Number(found[1]);
  try {
    const [classes, page] = await Promise.all([load("classes"), load(`class-${label}`)]);
    if (location.hash !== found[0]) return; // another click came first
    if (classes.rows[label]) showClass(label, page);
  } catch (error) {
    view.replaceChildren(
      make("h1", { tabindex: -1 }, "This class has no page here"),
      sorry(error),
      make("p", {}, make("a", { href: "#classes" }, "← Report")),
    );
  }
  [report.hidden, header.hidden, view.hidden] = [true, true, false];
  scrollTo(0, 0);
  view.querySelector("h1").focus({ preventScroll: true });
}

function offerMatrix(panel) {
  const opener = document.getElementById("matrix-open");
  panel.hidden = false;
  opener.onclick = async () => {
    try {
      const [cells, classes] = await Promise.all([load("matrix"), load("classes")]);
      opener.remove();
      showMatrix(panel, cells, classes);
      panel.querySelector("canvas").focus();
    } catch (error) {
      opener.replaceWith(sorry(error));
    }
  };
}

prepareCommands(document);
if (document.getElementById("matrix")) offerMatrix(document.getElementById("matrix"));
load("classes").then(showClasses, () => {}); // the page alone lists the largest
addEventListener("hashchange", route);
route();
