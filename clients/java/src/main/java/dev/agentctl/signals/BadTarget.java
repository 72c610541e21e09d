package dev.agentctl.signals;

/** The address or the token cannot be used; the text says what to do. */
public final class BadTarget extends Exception {
    private static final long serialVersionUID = 1L;

    public BadTarget(String message) {
        super(message);
    }
}
