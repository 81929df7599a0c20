// An MPI of the ABI of MPICH, for a process alone, that fails where BROKEN_MPI says.
#include <stdlib.h>
#include <string.h>

static int fails(const char* where) {
  const char* said = getenv("BROKEN_MPI");
  return said && strcmp(said, where) == 0 ? 15 : 0;
}

#ifndef OF_NO_KIND
// What such libraries are known by.
int MPIR_Err_create_code(void) {
  return 0;
}
#endif

int MPI_Get_library_version(char* text, int* length) {
  strcpy(text, "Broken MPI 1.0");
  *length = (int)strlen(text);
  return 0;
}
int MPI_Initialized(int* is_started) {
  *is_started = fails("started") != 0;
  return 0;
}
int MPI_Init_thread(int* argc, char*** argv, int wanted, int* provided) {
  (void)argc, (void)argv;
  *provided = fails("threads") ? 0 : wanted;
  return fails("init");
}
int MPI_Finalize(void) {
  return 0;
}
int MPI_Abort(int comm, int code) {
  (void)comm;
  exit(code);
}
int MPI_Comm_rank(int comm, int* rank) {
  (void)comm;
  *rank = 0;
  return 0;
}
int MPI_Comm_size(int comm, int* size) {
  (void)comm;
  *size = 1;
  return 0;
}
int MPI_Comm_set_errhandler(int comm, int handler) {
  // Those of MPICH: the communicators of all and of one, and the handler that returns.
  return (comm == 0x44000000 || comm == 0x44000001) && handler == 0x54000001 ? 0 : 15;
}
int MPI_Error_string(int code, char* text, int* length) {
  strcpy(text, code == 15 ? "the cable is cut" : "unknown");
  *length = (int)strlen(text);
  return 0;
}
int MPI_Iallgather(const void* from, int count, int type, void* to, int received, int as, int comm, int* request) {
  (void)received, (void)as, (void)comm;
  if (type != 0x4c00080b || fails("begin")) return 15;
  memcpy(to, from, 8 * (size_t)count);
  *request = 1;
  return 0;
}
int MPI_Ialltoall(const void* from, int count, int type, void* to, int received, int as, int comm, int* request) {
  return MPI_Iallgather(from, count, type, to, received, as, comm, request);
}
int MPI_Test(int* request, int* done, void* status) {
  (void)request, (void)status;
  *done = 1;
  return fails("test");
}
