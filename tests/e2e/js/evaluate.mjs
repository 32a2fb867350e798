// GitHub's own expression evaluator: reads [{expression, contexts, status}] from stdin, prints each value as JSON.
import { readFileSync } from "node:fs";
import { Evaluator, Lexer, Parser, data } from "@actions/expressions";

const statuses = ["always", "success", "failure", "cancelled"];
const holds = { always: () => true };
const answers = JSON.parse(readFileSync(0, "utf-8")).map(({ expression, contexts, status }) => {
  const functions = statuses.map((name) => ({
    name,
    description: "",
    minArgs: 0,
    maxArgs: 0,
    call: () => new data.BooleanData((holds[name] ?? (() => status === name))()),
  }));
  const context = JSON.parse(JSON.stringify(contexts), data.reviver);
  const { tokens } = new Lexer(expression).lex();
  const parsed = new Parser(tokens, Object.keys(contexts), functions).parse();
  const value = new Evaluator(parsed, context, new Map(functions.map((f) => [f.name, f]))).evaluate();
  return { truthy: truthy(value), text: value.coerceString() };
});

// As Actions decides an `if`: false, 0, -0, "", null and NaN do not hold (evaluator: falsy()).
function truthy(value) {
  const kinds = { [data.Kind.Null]: () => false, [data.Kind.Boolean]: () => value.value };
  kinds[data.Kind.Number] = () => value.value !== 0 && !Number.isNaN(value.value);
  kinds[data.Kind.String] = () => value.value.length > 0;
  return (kinds[value.kind] ?? (() => true))();
}

console.log(JSON.stringify(answers));
