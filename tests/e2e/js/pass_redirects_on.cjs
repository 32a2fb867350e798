// Prism follows redirects itself. GitHub's clients must see them: they may not send their token to where the content is.
const { createRequire } = require("node:module");
const path = createRequire(require.resolve("@stoplight/prism-http")).resolve("node-fetch");
const original = require(path);
const fetch = (url, options) => original.default(url, { ...options, redirect: "manual" });
require.cache[path].exports = Object.assign(fetch, original, { default: fetch });
