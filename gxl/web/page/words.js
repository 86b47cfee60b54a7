// SPDX-License-Identifier: LGPL-2.1-or-later
// How things are put into words.

const REASONS = {
  poweroff: "powered off",
  reboot: "asks for a reboot",
  suspend: "suspended",
  crash: "crashed",
  watchdog: "hung (watchdog)",
  soft_reset: "asks for a soft reset",
};

/** Text from a guest, without what would turn around or hide the text next to it. */
export function plain(text) {
  return String(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (letter) => `\\u{${letter.codePointAt(0).toString(16)}}`);
}

export function reason(value) {
  return REASONS[value] ?? `reason ${plain(value)}`;
}

/** Whether a shutdown for this reason is nobody's wish. */
export function failed(value) {
  return value === "crash" || value === "watchdog";
}

export function memory(kb) {
  if (kb >= 1024 * 1024) return `${(kb / 1024 / 1024).toFixed(kb % (1024 * 1024) ? 1 : 0)} GiB`;
  return `${Math.round(kb / 1024)} MiB`;
}

export function number(value) {
  return value.toLocaleString("en");
}

/** What happened, in words, and of which kind it is: bad, gone, good, or plain. */
export function told(event) {
  switch (event.type) {
    case "domain_shutdown":
      return [reason(event.shutdown_reason), failed(event.shutdown_reason) ? "bad" : "plain"];
    case "domain_death":
      return ["is gone", "gone"];
    case "disk_eject":
      return [`ejected ${plain(event.vdev ?? "a disk")}`, "plain"];
    case "resynced":
      return [`The connection to Xen is new: events may have been missed (${plain(event.reason)})`, "bad"];
    case "events_lost":
      return [`${number(event.count)} events were lost: the server was too busy`, "bad"];
    case "operation_complete":
      return [event.rc ? `an operation failed with ${event.rc}` : "an operation has ended", event.rc ? "bad" : "plain"];
    default:
      return [plain(event.type), "plain"];
  }
}
