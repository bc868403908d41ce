/* Moves bytes through TLS 1.3 with GnuTLS, in blocking mode. */

#include <gnutls/gnutls.h>

#include "common.h"

static gnutls_session_t from_client, from_server;

static gnutls_session_t connection(unsigned side, int end)
{
    gnutls_certificate_credentials_t credentials;
    gnutls_session_t session;
    gnutls_certificate_allocate_credentials(&credentials);
    if (side == GNUTLS_SERVER
        && gnutls_certificate_set_x509_key_file(credentials, "cert.pem", "key.pem",
                                                GNUTLS_X509_FMT_PEM) != 0)
        fail("loading the certificate");
    gnutls_init(&session, side);
    if (gnutls_priority_set_direct(session, "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-256-GCM",
                                   NULL) != 0)
        fail("choosing AES-256-GCM");
    gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
    gnutls_transport_set_int(session, ends[end]);
    int result;
    do
        result = gnutls_handshake(session);
    while (result < 0 && !gnutls_error_is_fatal(result));
    if (result != 0)
        fail("the handshake");
    return session;
}

static void client(void)
{
    from_client = connection(GNUTLS_CLIENT, 0);
}

static void server(void)
{
    from_server = connection(GNUTLS_SERVER, 1);
}

static void send_all(const char *from)
{
    for (size_t done = 0; done < bytes; done += block)
        if (gnutls_record_send(from_client, from, block) != (ssize_t)block)
            fail("gnutls_record_send");
}

static void receive_all(char *to)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t count = gnutls_record_recv(from_server, to, block);
        /* A ticket came in between. */
        if (count == GNUTLS_E_AGAIN)
            continue;
        if (count <= 0)
            fail("gnutls_record_recv");
        done += count;
    }
}
