// The native binary. A file of its own at the root of the package, for whatever traces requires to find it, and it the binary.
module.exports = require('node-gyp-build')(__dirname);
