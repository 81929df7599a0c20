// What the benchmark uses of WebAssembly besides the library.
declare namespace WebAssembly {
  const Memory: new (descriptor: { initial: number; maximum: number }) => Memory;
}
