# SPDX-License-Identifier: LGPL-2.1-or-later
"""What gxl calls in libxenlight, libxentoollog, libxenstore and libc, for cffi.

Building the package turns this file into the plain Python module `_declared` (setup.py); neither compiler nor Xen
headers are involved. A checkout that was never built does the same each time it loads libxl.

The structs that libxl allocates (libxl_event, libxl_device_disk, libxl_dominfo) are declared only as far as every
release from Xen 4.14 to 4.22 agrees on them: they are longer in reality, and differently so. So they are used through
pointers that libxl gave, and never sized, copied or allocated by their declaration. abi.py proves the members.
"""

from cffi import FFI

LIBXL = """
typedef struct libxl__ctx libxl_ctx;
typedef struct xentoollog_logger xentoollog_logger;
typedef struct libxl__evgen_domain_death libxl_evgen_domain_death;
typedef struct libxl__evgen_disk_eject libxl_evgen_disk_eject;

typedef struct {
    uint32_t backend_domid;
    char *backend_domname;
    char *pdev_path;
    char *vdev;
    int backend;
    int format;
    char *script;
    int removable;
    int readwrite;
    int is_cdrom;
} libxl_device_disk;

typedef struct {
    void *link[2];
    uint32_t domid;
    uint8_t domuuid[16];
    uint64_t for_user;
    int type;
    union {
        struct { uint8_t shutdown_reason; } domain_shutdown;
        struct { char *vdev; libxl_device_disk disk; } disk_eject;
        struct { int rc; } operation_complete;
    } u;
} libxl_event;

typedef struct {
    uint8_t uuid[16];
    uint32_t domid;
    uint32_t ssidref;
    char *ssid_label;
    bool running;
    bool blocked;
    bool paused;
    bool shutdown;
    bool dying;
    bool never_stop;
    int shutdown_reason;
    uint64_t outstanding_memkb;
    uint64_t current_memkb;
    uint64_t shared_memkb;
    uint64_t paged_memkb;
    uint64_t max_memkb;
    uint64_t cpu_time;
} libxl_dominfo;

int libxl_ctx_alloc(libxl_ctx **pctx, int version, unsigned flags, xentoollog_logger *lg);
int libxl_ctx_free(libxl_ctx *ctx);

void libxl_event_init(void *event);
void libxl_event_init_type(void *event, int type);
char *libxl_event_to_json(libxl_ctx *ctx, void *event);
void libxl_event_free(libxl_ctx *ctx, libxl_event *event);

typedef int libxl_event_predicate(const libxl_event *event, void *user);
int libxl_event_check(libxl_ctx *ctx, libxl_event **event_r, uint64_t typemask, libxl_event_predicate *predicate,
                      void *predicate_user);

typedef struct {
    uint64_t event_occurs_mask;
    void (*event_occurs)(void *user, libxl_event *event);
    void (*disaster)(void *user, int type, const char *msg, int errnoval);
} libxl_event_hooks;
void libxl_event_register_callbacks(libxl_ctx *ctx, const libxl_event_hooks *hooks, void *user);

int libxl_evenable_domain_death(libxl_ctx *ctx, uint32_t domid, uint64_t user, libxl_evgen_domain_death **evgen_out);
void libxl_evdisable_domain_death(libxl_ctx *ctx, libxl_evgen_domain_death *evgen);
int libxl_evenable_disk_eject(libxl_ctx *ctx, uint32_t domid, const char *vdev, uint64_t user,
                              libxl_evgen_disk_eject **evgen_out);
void libxl_evdisable_disk_eject(libxl_ctx *ctx, libxl_evgen_disk_eject *evgen);

struct timeval { long tv_sec; long tv_usec; };
struct pollfd { int fd; short events; short revents; };
int libxl_osevent_beforepoll(libxl_ctx *ctx, int *nfds_io, struct pollfd *fds, int *timeout_upd, struct timeval now);
void libxl_osevent_afterpoll(libxl_ctx *ctx, int nfds, const struct pollfd *fds, struct timeval now);

typedef struct {
    int (*fd_register)(void *user, int fd, void **registration_out, short events, void *for_libxl);
    int (*fd_modify)(void *user, int fd, void **registration_update, short events);
    void (*fd_deregister)(void *user, int fd, void *registration);
    int (*timeout_register)(void *user, void **registration_out, struct timeval abs, void *for_libxl);
    int (*timeout_modify)(void *user, void **registration_update, struct timeval abs);
    void (*timeout_deregister)(void *user, void *registration);
} libxl_osevent_hooks;
void libxl_osevent_register_hooks(libxl_ctx *ctx, const libxl_osevent_hooks *hooks, void *user);
void libxl_osevent_occurred_fd(libxl_ctx *ctx, void *for_libxl, int fd, short events, short revents);
void libxl_osevent_occurred_timeout(libxl_ctx *ctx, void *for_libxl);

typedef struct {
    int chldowner;
    int (*fork_replacement)(void *user);
    int (*reaped_callback)(int pid, int status, void *user);
} libxl_childproc_hooks;
void libxl_childproc_setmode(libxl_ctx *ctx, const libxl_childproc_hooks *hooks, void *user);
int libxl_childproc_reaped(libxl_ctx *ctx, int pid, int status);
void libxl_childproc_sigchld_occurred(libxl_ctx *ctx);
void libxl_postfork_child_noexec(libxl_ctx *ctx);

typedef struct {
    void (*callback)(libxl_ctx *ctx, int rc, void *for_callback);
    union { uint64_t for_event; void *for_callback; } u;
} libxl_asyncop_how;
int libxl_ao_abort(libxl_ctx *ctx, const libxl_asyncop_how *how);
int libxl_domain_pause(libxl_ctx *ctx, uint32_t domid, const libxl_asyncop_how *how);
int libxl_domain_unpause(libxl_ctx *ctx, uint32_t domid, const libxl_asyncop_how *how);
int libxl_domain_shutdown(libxl_ctx *ctx, uint32_t domid, const libxl_asyncop_how *how);
int libxl_domain_reboot(libxl_ctx *ctx, uint32_t domid, const libxl_asyncop_how *how);
int libxl_domain_destroy(libxl_ctx *ctx, uint32_t domid, const libxl_asyncop_how *how);

typedef struct {
    void (*callback)(libxl_ctx *ctx, libxl_event *event, void *for_callback);
    uint64_t for_event;
    void *for_callback;
} libxl_asyncprogress_how;
int libxl_domain_create_new(libxl_ctx *ctx, void *d_config, uint32_t *domid, const libxl_asyncop_how *how,
                            const libxl_asyncprogress_how *console_how);
int libxl_domain_create_restore(libxl_ctx *ctx, void *d_config, uint32_t *domid, int restore_fd, int send_back_fd,
                                const void *params, const libxl_asyncop_how *how,
                                const libxl_asyncprogress_how *console_how);
int libxl_domain_suspend(libxl_ctx *ctx, uint32_t domid, int fd, int flags, const libxl_asyncop_how *how);
int libxl_cdrom_insert(libxl_ctx *ctx, uint32_t domid, void *disk, const libxl_asyncop_how *how);

void libxl_domain_config_init(void *p);
int libxl_domain_config_from_json(libxl_ctx *ctx, void *p, const char *json);
void libxl_domain_config_dispose(void *p);
void libxl_domain_restore_params_init(void *p);
int libxl_domain_restore_params_from_json(libxl_ctx *ctx, void *p, const char *json);
void libxl_domain_restore_params_dispose(void *p);
void libxl_device_disk_init(void *p);
int libxl_device_disk_from_json(libxl_ctx *ctx, void *p, const char *json);
void libxl_device_disk_dispose(void *p);

void libxl_dominfo_init(void *info);
void libxl_dominfo_dispose(libxl_dominfo *info);
char *libxl_dominfo_to_json(libxl_ctx *ctx, void *info);
char *libxl_domid_to_name(libxl_ctx *ctx, uint32_t domid);
int libxl_domain_info(libxl_ctx *ctx, libxl_dominfo *info_r, uint32_t domid);
libxl_dominfo *libxl_list_domain(libxl_ctx *ctx, int *nb_domain_out);
void libxl_dominfo_list_free(libxl_dominfo *list, int nb_domain);
"""

# Found through libxenlight's own handle: it is linked with both libraries.
FRIENDS = """
typedef struct _IO_FILE FILE;
xentoollog_logger *xtl_createlogger_stdiostream(FILE *f, int min_level, unsigned flags);
void xtl_logger_destroy(xentoollog_logger *logger);
const char *xs_daemon_socket(void);
"""

LIBC = """
void free(void *pointer);
FILE *fdopen(int fd, const char *mode);
int fclose(FILE *f);
int fallocate(int fd, int mode, long offset, long len);
int poll(struct pollfd *fds, unsigned long nfds, int timeout);

struct sigaction { void *handler; unsigned long mask[16]; int flags; void *restorer; };
int sigaction(int signum, const struct sigaction *act, struct sigaction *oldact);

typedef struct { const char *fname; void *fbase; const char *sname; void *saddr; } Dl_info;
int dladdr(const void *address, Dl_info *info);
"""

ffibuilder = FFI()
ffibuilder.cdef(LIBXL + FRIENDS + LIBC)
ffibuilder.set_source("gxl.engines.libxl._declared", None)
