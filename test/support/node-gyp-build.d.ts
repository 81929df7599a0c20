declare module 'node-gyp-build' {
  /** Loads the addon of the package in that folder: build/Release, build/Debug, then prebuilds/. */
  export default function load(folder: string): unknown;
}
