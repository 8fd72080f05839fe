// ESLint for the scripts of the live views and of the site: `npm run lint`.
import { realpathSync } from "node:fs";
import { createRequire } from "node:module";
import { argv } from "node:process";

// nothing is installed in this folder: the recommended rules come from where the running ESLint was installed
const js = createRequire(realpathSync(argv[1]))("@eslint/js");

const readonly = (names) => Object.fromEntries(names.split(" ").map((name) => [name, "readonly"]));
const BROWSER = "Blob Image MutationObserver ResizeObserver URL XMLSerializer atob clearInterval document requestAnimationFrame setInterval setTimeout";

export default [
  js.configs.recommended,
  {
    languageOptions: { ecmaVersion: 2023, sourceType: "module" },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "prefer-const": "error",
      "no-var": "error",
      eqeqeq: "error",
      "one-var": ["error", "never"], // `bundle` reads one name per declaration
      "no-shadow": ["error", { builtinGlobals: true }], // modules share one scope in a bundle
      "no-unused-vars": ["error", { args: "none" }],
      "no-else-return": "error",
      "prefer-template": "error"
    }
  },
  { files: ["sastc/lab/static/*.js"], languageOptions: { globals: readonly(BROWSER) } },
  { files: [".ci/figures.js"], languageOptions: { globals: readonly("Plotly addEventListener document matchMedia") } },
  { files: ["tests/js/*.mjs"], languageOptions: { globals: readonly("Fuse TextEncoder URL") } }
];
