/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The host's domains, in a file that hypervisor.c maps into each client. */
#include <stdint.h>

#include <xen/xen.h>
#include <xen/domctl.h>
#include <xen/sysctl.h>

#define DOMAINS_MAX 20000

struct table {
    uint32_t last;
    struct xen_domctl_getdomaininfo domains[DOMAINS_MAX + 1];
};
