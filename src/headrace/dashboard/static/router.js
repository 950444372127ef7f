// Where the page is, in the address behind the #: `#/app/NAME/VIEW/REST?key=value`.

export function route(hash = location.hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").filter(Boolean).map(decoded);
  return { parts, query: new URLSearchParams(query) };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The address of a view: `to("app", name, "requests")`. */
export const to = (...parts) => `#/${parts.map(encodeURIComponent).join("/")}`;
