import { defineConfig } from "vite";

// Two files of fixed names, so that a rebuild of the same sources gives the same bytes.
export default defineConfig({
  base: "./",
  esbuild: { jsx: "automatic", legalComments: "none" },
  build: {
    outDir: "../src/phalanx/console/page",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    cssCodeSplit: false,
    rollupOptions: {
      output: {
        entryFileNames: "page.js",
        assetFileNames: "page[extname]",
        inlineDynamicImports: true,
      },
    },
  },
});
