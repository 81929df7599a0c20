// The first word of the command line chooses what is measured: the passes, or `serving`. Each reads the options of its own.
await (process.argv[2] === 'serving' ? import('./serving/main.js') : import('./passes.js'));

export {};
