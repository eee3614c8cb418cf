"""The lab: several nodes on one machine, and the QEMU and guests they run."""
