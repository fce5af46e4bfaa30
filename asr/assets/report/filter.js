/* Filters such as `wer>20 and duration<5`. The parser is written out here: no text is ever run as code. */

class FilterError extends Error {
  constructor(message, at) {
    super(message);
    this.at = at;
  }
}

const DEEPEST = 100; // parentheses and nots inside each other
const TOKEN = /\s*(?:(\d+(?:\.\d*)?|\.\d+)(?![\p{L}_])|("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(<=|>=|!=|!~|==|&&|\|\||[<>=~!()-])|([^\s"'()<>=~!&|-][^\s"'()<>=~!&|]*)|(\S))/uy;

function filterTokens(text) {
  const tokens = [];
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < text.length) {
    const found = TOKEN.exec(text);
    if (!found) break; // white space at the end
    const at = TOKEN.lastIndex - found[0].trimStart().length;
    if (found[1] !== undefined) tokens.push({ kind: "number", value: Number(found[1]), text: found[1], at });
    else if (found[2] !== undefined) tokens.push({ kind: "text", value: found[2].slice(1, -1).replace(/\\(.)/gu, "$1"), at });
    else if (found[3] !== undefined) tokens.push({ kind: "sign", value: found[3], at });
    else if (found[4] !== undefined) tokens.push({ kind: "word", value: found[4], at });
    else throw new FilterError(`cannot read ${found[5]} here`, at);
  }
  return tokens;
}

/*
 * A test of utterances. `fields`: by name, {kind: "number" | "text" | "set", of: utterance => value}; a value that is
 * undefined is not known, and comparisons with it are false. `search`: the texts that a bare word is looked for in.
 * Throws FilterError with the place of the fault.
 */
function parseFilter(text, fields, search) {
  const tokens = filterTokens(text);
  let next = 0;
  let depth = 0;

  const end = () => (next < tokens.length ? tokens[next].at : text.length);
  const is = (...values) => {
    const token = tokens[next];
    return token !== undefined && (token.kind === "sign" || token.kind === "word") && values.includes(token.value.toLowerCase());
  };
  const fieldOf = (token) => {
    const name = token.kind === "word" ? token.value.toLowerCase() : "";
    return Object.hasOwn(fields, name) ? fields[name] : null;
  };
  const deeper = (read) => {
    if (++depth > DEEPEST) throw new FilterError("too many parentheses inside each other", end());
    const test = read();
    depth--;
    return test;
  };

  function either() {
    const tests = [both()];
    while (is("or", "||")) {
      next++;
      tests.push(both());
    }
    return tests.length === 1 ? tests[0] : (u) => tests.some((test) => test(u));
  }

  function both() {
    const tests = [one()];
    while (next < tokens.length && !is("or", "||", ")")) {
      if (is("and", "&&")) next++;
      tests.push(one());
    }
    return tests.length === 1 ? tests[0] : (u) => tests.every((test) => test(u));
  }

  function one() {
    if (next >= tokens.length) throw new FilterError("expected a condition, such as wer > 20", text.length);
    if (is("not", "!")) {
      next++;
      const test = deeper(one);
      return (u) => !test(u);
    }
    if (is("(")) {
      next++;
      const test = deeper(either);
      if (!is(")")) throw new FilterError("expected )", end());
      next++;
      return test;
    }
    return condition();
  }

  function condition() {
    const token = tokens[next++];
    const sign = tokens[next];
    if (token.kind === "sign" || (token.kind === "word" && ["and", "or"].includes(token.value.toLowerCase())))
      throw new FilterError(`expected a condition, got ${token.value}`, token.at);
    const compares = sign !== undefined && sign.kind === "sign" && !["(", ")", "!", "&&", "||", "-"].includes(sign.value);
    if (!compares) {
      const field = fieldOf(token);
      if (field) throw new FilterError(`expected a comparison after ${token.value}, such as ${field.example}`, end());
      const wanted = String(token.kind === "number" ? token.text : token.value).toLowerCase();
      return (u) => search(u).some((found) => found.toLowerCase().includes(wanted));
    }
    next++;
    const field = fieldOf(token);
    if (!field) throw new FilterError(`no such field: ${token.text ?? token.value}. Known: ${Object.keys(fields).join(", ")}`, token.at);
    return comparison(field, token.value.toLowerCase(), sign, operand(sign));
  }

  function operand(sign) {
    const minus = is("-");
    if (minus) next++;
    const token = tokens[next++];
    if (token === undefined || token.kind === "sign") throw new FilterError(`expected a value after ${sign.value}`, token ? token.at : text.length);
    if (!minus) return token;
    return { ...token, value: token.kind === "number" ? -token.value : `-${token.value}`, text: `-${token.text ?? token.value}` };
  }

  function comparison(field, name, sign, token) {
    const { of, kind } = field;
    const operator = sign.value === "==" ? "=" : sign.value;
    if (kind === "number") {
      if (token.kind !== "number") throw new FilterError(`${name}: expected a number, got ${token.value}`, token.at);
      const value = token.value;
      const tests = {
        "<": (x) => x < value, "<=": (x) => x <= value, ">": (x) => x > value, ">=": (x) => x >= value,
        "=": (x) => Math.abs(x - value) < 1e-9, "!=": (x) => Math.abs(x - value) >= 1e-9,
      };
      const test = tests[operator];
      if (!test) throw new FilterError(`${name} is a number: expected < <= > >= = or !=, got ${operator}`, sign.at);
      return (u) => { const x = of(u); return x !== undefined && test(x); };
    }
    const value = String(token.kind === "number" ? token.text : token.value).toLowerCase();
    const wants = operator.endsWith("~") ? (x) => x.toLowerCase().includes(value) : (x) => x.toLowerCase() === value;
    if (!["=", "!=", "~", "!~"].includes(operator))
      throw new FilterError(`${name} is a text: expected = != ~ (contains) or !~, got ${operator}`, sign.at);
    const denies = operator.startsWith("!");
    return (u) => {
      const found = of(u);
      if (found === undefined) return false;
      return (kind === "set" ? found.some(wants) : wants(found)) !== denies;
    };
  }

  if (!tokens.length) return () => true;
  const test = either();
  if (next < tokens.length) throw new FilterError(`expected and, or, or the end, got ${tokens[next].value}`, tokens[next].at);
  return test;
}

/* A text as a filter writes it. */
function quoted(text) {
  return `"${text.replace(/[\\"]/gu, "\\$&")}"`;
}
