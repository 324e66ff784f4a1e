"""The console: a web API over the log of causes and the operations, and the page that reads it."""
