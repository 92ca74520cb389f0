// Commands to copy, with the work directory of this page.

// The page lies in WORKDIR/report, so it knows its work directory wherever that was moved.
function workdir() {
  const parts = decodeURIComponent(location.pathname).split("/");
  if (location.protocol !== "file:" || parts.length < 4 || parts.at(-2) !== "report") return null;
  return parts.slice(0, -2).join("/");
}

// A word for a shell.
function quoted(text) {
  return /^[\w./~+:@%-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function prepareCommands(root) {
  const place = workdir();
  for (const code of root.querySelectorAll(".command code")) {
    if (place) {
      // Only in front: what follows may hold texts of the crawl.
      code.textContent = code.textContent.replace(
        /^urnet \w+(?: --(?:workdir|config) DIR(?:-2|\/config\.yaml)?(?= |$))+/,
        (front) => front.replace(/ DIR(\S*)/g, (_, rest) => ` ${quoted(place + rest)}`),
      );
    }
    const button = code.parentNode.querySelector(".copy");
    button.hidden = false;
    button.onclick = async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => (button.textContent = "Copy"), 2000);
    };
  }
}

function command(text) {
  const button = make("button", { type: "button", class: "copy", hidden: "" }, "Copy");
  return make("div", { class: "command" }, make("code", {}, text), button);
}
