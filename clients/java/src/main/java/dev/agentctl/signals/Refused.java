package dev.agentctl.signals;

import io.grpc.Status;

/**
 * The server said something another attempt would not change.
 *
 * @param code code of the status
 * @param message what it said
 * @param reason reason code, such as ROLE_REQUIRED
 */
public record Refused(Status.Code code, String message, String reason) {
    @Override
    public String toString() {
        return message + " (" + reason + ")";
    }
}
