/* Moves bytes through TLS 1.3 with OpenSSL, in blocking mode. */

#include <openssl/ssl.h>

#include "common.h"

static SSL *from_client, *from_server;

static SSL *connection(const SSL_METHOD *method, int end, int (*shake)(SSL *))
{
    SSL_CTX *context = SSL_CTX_new(method);
    if (method == TLS_server_method()
        && (SSL_CTX_use_certificate_chain_file(context, "cert.pem") != 1
            || SSL_CTX_use_PrivateKey_file(context, "key.pem", SSL_FILETYPE_PEM) != 1))
        fail("loading the certificate");
    /* Reads ahead, as the others do: several records in one system call. */
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, 36 << 10);
    SSL *ssl = SSL_new(context);
    SSL_set_fd(ssl, ends[end]);
    if (shake(ssl) != 1)
        fail("the handshake");
    if (strcmp(SSL_get_cipher(ssl), "TLS_AES_256_GCM_SHA384") != 0)
        fail("agreeing on AES-256-GCM");
    return ssl;
}

static void client(void)
{
    from_client = connection(TLS_client_method(), 0, SSL_connect);
}

static void server(void)
{
    from_server = connection(TLS_server_method(), 1, SSL_accept);
}

static void send_all(const char *from)
{
    for (size_t done = 0; done < bytes; done += block)
        if (SSL_write(from_client, from, block) != (int)block)
            fail("SSL_write");
}

static void receive_all(char *to)
{
    for (size_t done = 0; done < bytes;) {
        int count = SSL_read(from_server, to, block);
        if (count <= 0)
            fail("SSL_read");
        done += count;
    }
}
