// MPI, found at run time: whoever trains over many machines has it installed, in whatever kind, and nobody
// else needs it. All of it belongs to the process, and is called on its main thread alone. Not on Windows.
#pragma once

#include <cstddef>
#include <string>

namespace binding::mpi {

/// What all members do together, each with its own values. Both write `count` values of each member, in the
/// order of ranks.
enum Exchange {
  /// Each brings `count` values, which all get.
  kAllGather,
  /// Each brings `count` values for every member, in the order of ranks.
  kAllToAll,
};

/// Loads a library, by name or path; returns what it says it is. Throws std::runtime_error with the reason
/// where it is none.
std::string load(const char* library);

/// Whether start() has been called, or somebody else has started MPI with the library that is loaded.
bool is_started();

/// Begins with the library that was loaded. Throws std::runtime_error with MPI's text.
void start();

int rank();
int size();

/// Begins an exchange of values that are read before it returns. Throws std::runtime_error with MPI's text,
/// std::bad_alloc.
void begin(Exchange exchange, const double* values, size_t count);

/// Whether the exchange on its way has ended, within so many milliseconds; with 0 it only looks. Throws
/// std::runtime_error with MPI's text.
bool wait(double milliseconds);

/// How many values of each member, and of all, the exchange that has ended has brought.
size_t received();
void take(double* values);

/// Ends MPI. With a code other than 0, or an exchange on its way, the others would wait for this member for
/// ever: the whole job ends, with the process, so that its error is told before.
void end(int code);

}  // namespace binding::mpi
